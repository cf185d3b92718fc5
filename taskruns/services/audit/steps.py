"""Reading many rows of a chain a few at a time."""

from collections.abc import Callable, Iterator
from typing import Any

from django.db.models import Q, QuerySet

from taskruns.audit.seal import COLUMNS, SPELLED

CHUNK = 2_000
EVENT = (*COLUMNS, "hash")
ANCHOR = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
Row = tuple[Any, ...]


def as_json(query: "QuerySet[Any, Row]") -> list[Row]:
    spelled = SPELLED.get
    return [tuple(spell(value) if (spell := spelled(type(value))) else value for value in row) for row in query]


def in_steps(
    rows: "QuerySet[Any]", names: tuple[str, ...], *, read: Callable[[Any], list[Row]] = as_json
) -> Iterator[dict[str, Any]]:
    """All rows of one chain by their number, as JSON values by column, in constant memory.

    Not `iterator()`: over a whole log PostgreSQL would hold a copy of it on disk or a transaction open for us, and
    SQLite could not tidy its journal while somebody takes an export away slowly.
    """
    pk, seq, length = -1, -1, CHUNK
    # On SQLite an edited number may be a text: it stands behind all others, so nothing is left out by stopping there.
    while length == CHUNK and isinstance(seq, int):
        further = rows.filter(Q(seq__gt=seq) | Q(pk__gt=pk), seq__gte=seq).order_by("seq", "pk")
        chunk = read(further.values_list("pk", "seq", *names)[:CHUNK])
        for _pk, _seq, *values in chunk:
            yield dict(zip(names, values, strict=True))
        length = len(chunk)
        pk, seq = chunk[-1][:2] if chunk else (pk, seq)
        del chunk, further  # or two steps would be held at once
