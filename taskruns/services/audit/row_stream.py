"""Reading rows of the log, any of which someone may have changed by hand.

There is one way: many rows in one query. If that fails, each row by itself, and a row that cannot be read comes as it
is stored. `stream_values()` gives JSON values for verification and export, `read_events()` model rows for the pages.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.db import DatabaseError
from django.db.models import CharField, Func, Model, Q, QuerySet, UUIDField

from taskruns.audit import CATALOGUE, EventType
from taskruns.audit.raw_rows import UNREADABLE_VALUE, stored_values, tolerant_text, with_number, without_number
from taskruns.audit.row_json import AS_JSON, COLUMNS
from taskruns.models import AuditEvent

CHUNK = 2_000
EVENT = (*COLUMNS, "hash")
ANCHOR = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
# What `record()` gives these columns, whatever they hold.
_TYPES = {"seq": int, "at": datetime, "details": dict}
Rows = QuerySet[Any, Any]
Values = tuple[Any, ...]
T = TypeVar("T")


def _read(rows: Rows, shape: Callable[[Rows], Iterable[T]], stored: Callable[[int], T]) -> list[T]:
    """Each row as `shape` makes it of a query; one that cannot be read, as `stored` makes it of its key."""
    try:
        return list(shape(rows))
    except (DatabaseError, *UNREADABLE_VALUE):
        # An unreadable value, or no database: the second attempt tells them apart.
        with tolerant_text():
            return [_read_one(rows.model, pk, shape, stored) for pk in list(rows.values_list("pk", flat=True))]


def _read_one(model: type[Model], pk: int, shape: Callable[[Rows], Iterable[T]], stored: Callable[[int], T]) -> T:
    try:
        return next(iter(shape(model._default_manager.filter(pk=pk))))
    except UNREADABLE_VALUE:
        return stored(pk)


# JSON values


def stream_values(rows: Rows, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """All rows of one chain by their number, as JSON values by column, in constant memory.

    A row whose number is not a number is not among them: see `unnumbered()`.
    Not `iterator()`: over a whole log PostgreSQL would hold a copy of it on disk or a transaction open for us, and
    SQLite could not tidy its journal while someone downloads slowly.
    """
    rest, length = with_number(rows), CHUNK
    shape, stored = partial(_values, names=names), partial(_stored_values, rows.model, names=names)
    while length == CHUNK:
        chunk = _read(rest.order_by("seq", "pk")[:CHUNK], shape, stored)
        for _pk, _seq, *values in chunk:
            yield dict(zip(names, values, strict=True))
        length = len(chunk)
        if chunk:
            pk, seq = chunk[-1][:2]
            rest = with_number(rows).filter(Q(seq__gt=seq) | Q(pk__gt=pk), seq__gte=seq)
        del chunk  # or two chunks would be held at once


def unnumbered(rows: Rows) -> "QuerySet[Any, int]":
    """The keys of the rows whose number is not a number."""
    return without_number(rows).order_by("pk").values_list("pk", flat=True)


def _values(rows: Rows, *, names: tuple[str, ...]) -> list[Values]:
    """Key and number, then the columns."""
    as_json = AS_JSON.get
    found = rows.values_list("pk", "seq", *_columns(rows.model, names))
    return [tuple(to_json(value) if (to_json := as_json(type(value))) else value for value in row) for row in found]


def _columns(model: type[Model], names: tuple[str, ...]) -> list[str | Func]:
    """Uuids become text in the database: it does so many times faster, and a long log has millions."""
    uuids = {name for name in names if isinstance(model._meta.get_field(name), UUIDField)}
    return [UuidText(name) if name in uuids else name for name in names]


class UuidText(Func):
    """As text in its five groups: SQLite holds 32 digits, PostgreSQL a uuid."""

    output_field = CharField()
    template = "CAST(%(expressions)s AS text)"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        groups = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 100))
        parts = (f"substr(%(expressions)s, {begin}, {length})" for begin, length in groups)
        return self.as_sql(compiler, connection, template=" || '-' || ".join(parts), **extra)


def _stored_values(model: type[Model], pk: int, *, names: tuple[str, ...]) -> Values:
    """Whatever its hash was made of: a row that cannot be read was not written by us."""
    seq = model._default_manager.values_list("seq", flat=True).get(pk=pk)
    stored = stored_values(model, pk, names)
    stored |= {"seq": seq, "hash": f"unreadable, stored as {stored['hash']}"}
    return (pk, seq, *stored.values())


# Model rows


def read_events(rows: "QuerySet[AuditEvent]") -> list[AuditEvent]:
    """The rows. One that `record()` cannot have written comes as it is stored, marked `is_damaged`."""
    found: list[AuditEvent] = _read(rows, iter, _stored_event)
    return [row if row.is_damaged or _is_ours(row) else _stored_event(row.pk) for row in found]


def _is_ours(row: AuditEvent) -> bool:
    """Only types and names are looked at; whether the row was changed, its hash tells."""
    values = {name: getattr(row, name) for name in EVENT}
    try:
        json.dumps(values, ensure_ascii=False, default=_other).encode()
        outcomes = CATALOGUE[EventType(row.event)]
    except (ValueError, TypeError, RecursionError):
        return False
    types = {name: type(values[name]) for name in _TYPES}
    return types == _TYPES and row.outcome in outcomes


def _other(value: object) -> str:
    """What JSON does not know and a row may hold."""
    if isinstance(value, datetime | UUID):
        return str(value)
    raise TypeError


def _stored_event(pk: int) -> AuditEvent:
    row = AuditEvent.objects.only("pk").get(pk=pk)
    for name, value in stored_values(AuditEvent, pk, EVENT).items():
        setattr(row, name, value)
    row.is_damaged = True
    return row
