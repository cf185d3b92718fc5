"""Reading many rows of a chain a few at a time."""

from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError
from django.db.models import CharField, Func, Model, Q, QuerySet, UUIDField

from taskruns.audit.damaged import STRANGE_VALUES, as_stored, lenient, numbered
from taskruns.audit.row_json import COLUMNS, SPELLED

CHUNK = 2_000
EVENT = (*COLUMNS, "hash")
ANCHOR = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
Row = tuple[Any, ...]


def in_steps(rows: "QuerySet[Any]", names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """All rows of one chain by their number, as JSON values by column, in constant memory.

    A row that cannot be read comes as it is stored; one whose number is none does not come: see `unnumbered()`.
    Not `iterator()`: over a whole log PostgreSQL would hold a copy of it on disk or a transaction open for us, and
    SQLite could not tidy its journal while somebody takes an export away slowly.
    """
    further, length, columns = numbered(rows), CHUNK, _columns(rows.model, names)
    while length == CHUNK:
        chunk = _read(further.order_by("seq", "pk").values_list("pk", "seq", *columns)[:CHUNK], names)
        for _pk, _seq, *values in chunk:
            yield dict(zip(names, values, strict=True))
        length = len(chunk)
        if chunk:
            pk, seq = chunk[-1][:2]
            further = numbered(rows).filter(Q(seq__gt=seq) | Q(pk__gt=pk), seq__gte=seq)
        del chunk  # or two steps would be held at once


def _columns(model: type[Model], names: tuple[str, ...]) -> list[str | Func]:
    """Uuids are spelled by the database: it does so many times faster, and a long log has millions."""
    are_uuids = {name for name in names if isinstance(model._meta.get_field(name), UUIDField)}
    return [UuidText(name) if name in are_uuids else name for name in names]


class UuidText(Func):
    """As text in its five groups: SQLite holds 32 digits, PostgreSQL a uuid."""

    output_field = CharField()
    template = "CAST(%(expressions)s AS text)"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        groups = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 100))
        parts = (f"substr(%(expressions)s, {begin}, {length})" for begin, length in groups)
        return self.as_sql(compiler, connection, template=" || '-' || ".join(parts), **extra)


def unnumbered(rows: "QuerySet[Any]") -> "QuerySet[Any, int]":
    """The keys of the rows whose number is none."""
    return numbered(rows, well=False).order_by("pk").values_list("pk", flat=True)


def _read(query: "QuerySet[Any, Row]", names: tuple[str, ...]) -> list[Row]:
    try:
        return _as_json(query)
    except (DatabaseError, *STRANGE_VALUES):
        # A value that cannot be read, or no database: the second try tells.
        with lenient():
            return [_one(query, pk, seq, names) for pk, seq in list(query.values_list("pk", "seq"))]


def _as_json(query: "QuerySet[Any, Row]") -> list[Row]:
    spelled = SPELLED.get
    return [tuple(spell(value) if (spell := spelled(type(value))) else value for value in row) for row in query]


def _one(query: "QuerySet[Any, Row]", pk: int, seq: int, names: tuple[str, ...]) -> Row:
    try:
        alone = query.model._default_manager.filter(pk=pk)
        return _as_json(alone.values_list("pk", "seq", *_columns(query.model, names)))[0]
    except STRANGE_VALUES:
        stored = dict(zip(names, as_stored(query.model, pk, names), strict=True))
    # Whatever its hash was made of: a row that cannot be read is no row of ours.
    stored |= {"seq": seq, "hash": f"unreadable, stored as {stored['hash']}"}
    return (pk, seq, *stored.values())
