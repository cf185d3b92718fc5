"""What a database holds, for the manifest of a backup. Plain SQL, so that a copy can be read without Django."""

import json
from collections.abc import Callable, Iterable
from typing import Any

Query = Callable[[str], Iterable[tuple[Any, ...]]]
_FACTORS = ("secret", "seed")  # where a second factor stores its secret, as "<ring number>:<token>"


def described(query: Query, tables: Iterable[str]) -> dict[str, Any]:
    """Row counts, migrations, the newest row and anchor of each chain, and which keys the data needs."""
    names = sorted(tables)
    known = set(names)
    return {
        "rows": {name: _first(query(f'SELECT COUNT(*) FROM "{name}"')) for name in names},  # noqa: S608 - a table's name
        "migrations": [f"{app}.{name}" for app, name in query("SELECT app, name FROM django_migrations ORDER BY id")],
        "chains": dict(_pairs(query("SELECT chain, seq FROM taskruns_auditchain"))),
        "anchors": dict(_pairs(query("SELECT chain, MAX(seq) FROM taskruns_auditanchor GROUP BY chain"))),
        "ring_numbers": sorted(_ring_numbers(query)),
        "signing_keys": sorted(key for (key,) in query("SELECT key_id FROM taskruns_signingkeyuse"))
        if "taskruns_signingkeyuse" in known
        else [],
    }


def _pairs(rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[str, int]]:
    return ((chain, seq) for chain, seq in rows)


def _first(rows: Iterable[tuple[Any, ...]]) -> Any:
    return next(iter(rows))[0]


def _ring_numbers(query: Query) -> set[int]:
    keys = {
        number for (number,) in query("SELECT DISTINCT ring_number FROM taskruns_credential WHERE ciphertext <> ''")
    }
    for (data,) in query("SELECT data FROM mfa_authenticator"):
        factor = json.loads(data) if isinstance(data, str) else data
        for name in _FACTORS:
            number, colon, _token = str(factor.get(name, "")).partition(":")
            if colon and number.isdigit():
                keys.add(int(number))
    return keys
