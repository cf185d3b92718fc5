"""Reading rows of the log, any of which someone may have changed by hand.

Rows are read in chunks. If a chunk fails, its rows are read one by one, and an unreadable row is returned with its raw
stored values. `stream_values()` gives JSON values for verification and export, `read_events()` model rows for pages.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.db import DatabaseError, connection
from django.db.models import CharField, DateTimeField, Func, JSONField, Model, Q, QuerySet, UUIDField

from taskruns.audit import CATALOGUE, EventType
from taskruns.audit.raw_rows import UNREADABLE_VALUE, stored_values, tolerant_text, with_number, without_number
from taskruns.audit.row_json import AS_JSON, COLUMNS
from taskruns.models import AuditEvent

CHUNK = 2_000
LONGEST_REACH = 1_000 * CHUNK  # numbers; beyond such a gap, a chunk has no end
EVENT = (*COLUMNS, "hash")
ANCHOR = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
# The types that `record()` always writes to these columns.
_TYPES = {"seq": int, "at": datetime, "details": dict}
Rows = QuerySet[Any, Any]
Values = tuple[Any, ...]
T = TypeVar("T")


def _read(rows: Rows, shape: Callable[[Rows], Iterable[T]], stored: Callable[[int], T]) -> list[T]:
    """Convert all rows with `shape`. An unreadable row is converted with `stored`, from its primary key."""
    try:
        return list(shape(rows))
    except (DatabaseError, *UNREADABLE_VALUE):
        # Either an unreadable value or no database. In the second case reading row by row raises again.
        with tolerant_text():
            return [_read_one(rows.model, pk, shape, stored) for pk in list(rows.values_list("pk", flat=True))]


def _read_one(model: type[Model], pk: int, shape: Callable[[Rows], Iterable[T]], stored: Callable[[int], T]) -> T:
    try:
        return next(iter(shape(model._default_manager.filter(pk=pk))))
    except UNREADABLE_VALUE:
        return stored(pk)


# JSON values


def _time_text(at: datetime) -> str:
    return str(connection.ops.adapt_datetimefield_value(at))


_WRITES: dict[type, Callable[[Any], str]] = {DateTimeField: _time_text, JSONField: json.dumps}


def stream_values(rows: Rows, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """All rows of one chain by number, as JSON values by column, in constant memory.

    Rows whose `seq` is not an integer are left out: see `unnumbered()`.
    Does not use `iterator()`: during a slow download PostgreSQL would keep a copy of the log on disk or a transaction
    open, and SQLite could not checkpoint its write-ahead log.
    PostgreSQL without statistics would sort the rest of the chain for each chunk, so a chunk ends at a number.
    """
    shape, stored = partial(_values, names=names), partial(_stored_values, rows.model, names=names)
    rest, reach, end = with_number(rows), CHUNK, None
    while True:
        within = rest if end is None else rest.filter(seq__lt=end)
        chunk = _read(within.order_by("seq", "pk")[:CHUNK], shape, stored)
        for _pk, _seq, *values in chunk:
            yield dict(zip(names, values, strict=True))
        if len(chunk) < CHUNK and end is None:
            return
        if chunk:
            pk, seq = chunk[-1][:2]
            rest = with_number(rows).filter(Q(seq__gt=seq) | Q(pk__gt=pk), seq__gte=seq)
        begin = end if end is not None and len(chunk) < CHUNK else seq + 1
        reach = CHUNK if 2 * len(chunk) >= CHUNK else 2 * reach
        end = begin + reach if reach <= LONGEST_REACH else None
        del chunk  # or two chunks would be in memory at once


def unnumbered(rows: Rows) -> "QuerySet[Any, int]":
    """Primary keys of the rows whose `seq` is not an integer."""
    return without_number(rows).order_by("pk").values_list("pk", flat=True)


def _values(rows: Rows, *, names: tuple[str, ...]) -> list[Values]:
    """For each row: primary key, `seq`, then the named columns."""
    as_json = AS_JSON.get
    respelled = _respelled(rows.model, names)
    texts = [StoredText(name) for name in respelled]
    found: Iterable[Values] = rows.values_list("pk", "seq", *_columns(rows.model, names), *texts)
    if respelled:
        found = (_as_written(row, respelled) for row in found)
    return [tuple(to_json(value) if (to_json := as_json(type(value))) else value for value in row) for row in found]


def _respelled(model: type[Model], names: tuple[str, ...]) -> dict[str, tuple[int, Callable[[Any], str]]]:
    """On SQLite, the columns in which several texts mean the same value: filters and sorting compare the text.

    Column -> its index in a row of `_values`, and the function that gives the text that the panel writes.
    """
    if connection.vendor != "sqlite":
        return {}
    fields = [(place, model._meta.get_field(name)) for place, name in enumerate(names, 2)]
    return {field.name: (place, write) for place, field in fields if (write := _WRITES.get(type(field)))}


def _as_written(row: Values, respelled: dict[str, tuple[int, Callable[[Any], str]]]) -> Values:
    values, texts = row[: -len(respelled)], row[-len(respelled) :]
    for text, (place, write) in zip(texts, respelled.values(), strict=True):
        if write(values[place]) != text:
            raise ValueError(text)
    return values


def _columns(model: type[Model], names: tuple[str, ...]) -> list[str | Func]:
    """Let the database convert uuids to text: much faster than Python for millions of rows."""
    uuids = {name for name in names if isinstance(model._meta.get_field(name), UUIDField)}
    return [UuidText(name) if name in uuids else name for name in names]


class StoredText(Func):
    """A column of SQLite as it is stored. The expression has no declared type, so nothing converts it."""

    output_field = CharField()
    template = "ifnull(%(expressions)s, NULL)"


class UuidText(Func):
    """A uuid as text with hyphens. SQLite stores 32 hex digits, PostgreSQL a uuid."""

    output_field = CharField()
    template = "CAST(%(expressions)s AS text)"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        groups = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 100))
        parts = (f"substr(%(expressions)s, {begin}, {length})" for begin, length in groups)
        return self.as_sql(compiler, connection, template=" || '-' || ".join(parts), **extra)


def _stored_values(model: type[Model], pk: int, *, names: tuple[str, ...]) -> Values:
    """Raw values of an unreadable row, with a hash that cannot match: the panel did not write this row."""
    seq = model._default_manager.values_list("seq", flat=True).get(pk=pk)
    stored = stored_values(model, pk, names)
    stored |= {"seq": seq, "hash": f"unreadable, stored as {stored['hash']}"}
    return (pk, seq, *stored.values())


# Model rows


def read_events(rows: "QuerySet[AuditEvent]") -> list[AuditEvent]:
    """The rows. One that `record()` cannot have written has its raw stored values and `is_damaged` set."""
    found: list[AuditEvent] = _read(rows, iter, _stored_event)
    return [row if row.is_damaged or _is_ours(row) else _stored_event(row.pk) for row in found]


def _is_ours(row: AuditEvent) -> bool:
    """Check only types and names. Verification checks the hash."""
    values = {name: getattr(row, name) for name in EVENT}
    try:
        json.dumps(values, ensure_ascii=False, default=_other).encode()
        outcomes = CATALOGUE[EventType(row.event)]
    except (ValueError, TypeError, RecursionError):
        return False
    types = {name: type(values[name]) for name in _TYPES}
    return types == _TYPES and row.outcome in outcomes


def _other(value: object) -> str:
    """Convert the types that a row may hold and JSON does not have."""
    if isinstance(value, datetime | UUID):
        return str(value)
    raise TypeError


def _stored_event(pk: int) -> AuditEvent:
    row = AuditEvent.objects.only("pk").get(pk=pk)
    for name, value in stored_values(AuditEvent, pk, EVENT).items():
        setattr(row, name, value)
    row.is_damaged = True
    return row
