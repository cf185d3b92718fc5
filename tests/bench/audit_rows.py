"""Many rows of the log, written in bulk and hashed by the code that writes single rows, with as many anchors as the
worker would have made at this rate.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from django.db import connection, transaction

from taskruns.audit import row_as_json
from taskruns.audit.anchors import ANCHOR_EVERY
from taskruns.audit.row_json import value_as_json
from taskruns.audit.signing_keys import sign, signing_key_id
from taskruns.models import AuditAnchor, AuditChain, AuditEvent
from taskruns.verifier import event_hash

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=20)
CHUNK = 5_000
ANCHORED = 15  # rows: at this rate five minutes, the clock's interval
FIELDS = [field for field in AuditEvent._meta.concrete_fields if not field.primary_key]
# The other columns are written unchanged.
SPECIAL = {
    field.attname: field for field in FIELDS if field.get_internal_type() in {"UUIDField", "DateTimeField", "JSONField"}
}


def fill(chain: str, *, rows: int) -> None:
    """Append this many rows to the chain: cancels and their outcomes."""
    names = ", ".join(field.column for field in FIELDS)
    marks = ", ".join(["%s"] * len(FIELDS))
    statement = f"INSERT INTO {AuditEvent._meta.db_table} ({names}) VALUES ({marks})"
    head, _ = AuditChain.objects.get_or_create(chain=chain)
    seq, previous, rows_of_all = head.seq, head.hash, rows
    while rows > 0:
        count = min(CHUNK, rows)
        with transaction.atomic(), connection.cursor() as cursor:
            made = list(_rows(chain, seq, previous, count))
            cursor.executemany(statement, [_prepared(row) for row in made])
            seq, previous = made[-1]["seq"], made[-1]["hash"]
            AuditChain.objects.filter(chain=chain).update(seq=seq, hash=previous)
            _anchor([row for row in made if _is_anchored(row["seq"]) or row["seq"] == head.seq + rows_of_all])
        rows -= count


def _is_anchored(seq: int) -> bool:
    return seq % ANCHORED == 0 or seq % ANCHOR_EVERY == 0


def _anchor(rows: list[dict[str, Any]]) -> None:
    columns = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
    statement = f"INSERT INTO {AuditAnchor._meta.db_table} ({', '.join(columns)}) VALUES (%s, %s, %s, %s, %s, %s)"
    signed_at = AuditAnchor._meta.get_field("signed_at")
    key = signing_key_id()
    values = []
    for row in rows:
        anchor = {"chain": row["chain"], "seq": row["seq"], "hash": row["hash"], "signed_at": row["at"], "key_id": key}
        signature = sign({name: value_as_json(value) for name, value in anchor.items()})
        at = signed_at.get_db_prep_save(row["at"], connection)
        values.append([row["chain"], row["seq"], row["hash"], at, key, signature])
    with connection.cursor() as cursor:
        cursor.executemany(statement, values)


def _rows(chain: str, seq: int, previous: str, count: int) -> Iterator[dict[str, Any]]:
    for number in range(seq + 1, seq + count + 1):
        row = _row(chain, number) | {"prev_hash": previous}
        previous = event_hash(row_as_json(SimpleNamespace(**row)))
        yield row | {"hash": previous}


def person_of(chain: str, number: int) -> str:
    """The id of one of ten people of a team."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{chain}/{number}"))


def run_of(chain: str, number: int) -> str:
    return f"VGFza1J1bjo{uuid.uuid5(uuid.NAMESPACE_URL, f'{chain}/run/{number}').hex}"


def _row(chain: str, number: int) -> dict[str, Any]:
    """Odd numbers are requests, even numbers the outcome of the row before.

    There are few people and runs, so that a page of either is full even in a short log.
    """
    asked = number % 2 == 1
    person = number // 2 % 10
    return {
        "schema": 1,
        "chain": chain,
        "seq": number,
        "event_id": uuid.uuid4(),
        "at": BEGIN + STEP * number,
        "event": "run.cancel",
        "outcome": "requested" if asked else "confirmed",
        "actor_type": "user",
        "actor_id": person_of(chain, person),
        "actor_label": f"person-{person}@example.com",
        "actor_role": "operator",
        "auth_method": "password+totp",
        "session_ref": "0123456789abcdef",
        "ip": "192.0.2.7",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "request_id": str(uuid.UUID(int=number)),
        "operation_id": uuid.UUID(int=(number + 1) // 2),
        "team_id": uuid.UUID(chain.removeprefix("team:")) if chain != "site" else None,
        "team_label": "Bench" if chain != "site" else "",
        "target_type": "run",
        "target_id": str(uuid.UUID(int=number // 2 % 5_000)),
        "target_label": "Answer relevance evaluation",
        "endpoint": "https://api.arize.com",
        "task_id": f"T25saW5lVGFzazo0NTpx{number % 200:04}",
        "run_id": run_of(chain, number // 2 % 10),
        "credential_id": uuid.UUID(int=7),
        "reason": "Judge model is down, scores are wrong" if asked else "",
        "details": {"status_before": "running", "num_successes": number, "num_errors": 3, "num_skipped": 0},
    }


def _prepared(row: dict[str, Any]) -> list[Any]:
    special = {name: field.get_db_prep_save(row[name], connection) for name, field in SPECIAL.items()}
    return [special.get(field.attname, row[field.attname]) for field in FIELDS]
