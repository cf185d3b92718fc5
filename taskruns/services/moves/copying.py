"""Copies the rows of every table, in the order of their primary keys, from one database to the other.

Values pass through Django's own fields, which keep microseconds, zones and UUIDs. JSON is copied as text, so no number
changes on the way. Generated columns are left out: the target computes them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.apps import apps
from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Cast

from taskruns.audit.append_only import APPEND_ONLY_TABLES
from taskruns.models import CacheEntry, Move
from taskruns.services.audit.rows import StoredText

CHUNK = 2_000  # rows
_NOT_COPIED: tuple[type[models.Model], ...] = (CacheEntry, Move)
_NOT_ASCII = re.compile(r"[^ -~]")

Model = type[models.Model]
Progress = Callable[[str, int, int], None]  # table, rows so far, rows in all


class NotTheSame(Exception):
    """The rows of a table could not be copied, or are not all there. The text names the table."""


def copied_models() -> list[Model]:
    every = apps.get_models(include_auto_created=True)
    return [model for model in every if model._meta.managed and model not in _NOT_COPIED]


def copy_all(target: str, progress: Progress) -> dict[str, int]:
    """Copy every row, in a transaction of each database. Returns the rows of each table. Raises NotTheSame."""
    chosen = copied_models()
    for model in chosen:
        _empty(model, connections[target])
    counts = {model._meta.db_table: _copy(model, target, progress) for model in chosen}
    for model in chosen:
        _compare(model, target, counts[model._meta.db_table])
    _reset_sequences(chosen, connections[target])
    return counts


def _empty(model: Model, target: BaseDatabaseWrapper) -> None:
    """Migrations fill a few tables, for example with content types. The log's tables refuse this, and are empty."""
    if model._meta.db_table not in APPEND_ONLY_TABLES:
        with target.cursor() as cursor:
            cursor.execute(f"DELETE FROM {target.ops.quote_name(model._meta.db_table)}")  # noqa: S608 - our name


def _copy(model: Model, target: str, progress: Progress) -> int:
    source = connections[DEFAULT_DB_ALIAS]
    fields = [field for field in model._meta.concrete_fields if not field.generated]
    rows = model._default_manager.using(DEFAULT_DB_ALIAS).order_by("pk")
    total, done = rows.count(), 0
    columns = [_selected(field, source) for field in fields]
    write = _write_postgresql if connections[target].vendor == "postgresql" else _write_sqlite
    try:
        for chunk in _chunks(rows, columns):
            write(connections[target], model, fields, chunk)
            done += len(chunk)
            progress(model._meta.db_table, done, total)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"a row of {model._meta.db_table} has a value that cannot be read: {type(error).__name__}"
        raise NotTheSame(message) from error
    return total


def _chunks(rows: "models.QuerySet[Any]", columns: list[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """By the primary key: without a server-side cursor, PostgreSQL would send the whole table at once."""
    left = rows
    while chunk := list(left.values_list("pk", *columns)[:CHUNK]):
        yield [row[1:] for row in chunk]
        left = rows.filter(pk__gt=chunk[-1][0])


def _selected(field: "models.Field[Any, Any]", source: BaseDatabaseWrapper) -> Any:
    if not isinstance(field, models.JSONField):
        return field.attname
    return Cast(field.attname, models.TextField()) if source.vendor == "postgresql" else StoredText(field.attname)


def _write_postgresql(
    target: BaseDatabaseWrapper, model: Model, fields: Iterable[Any], rows: Iterable[tuple[Any, ...]]
) -> None:
    columns = ", ".join(target.ops.quote_name(field.column) for field in fields)
    statement = f"COPY {target.ops.quote_name(model._meta.db_table)} ({columns}) FROM STDIN"
    with target.wrap_database_errors, target.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _write_sqlite(
    target: BaseDatabaseWrapper, model: Model, fields: Iterable[Any], rows: Iterable[tuple[Any, ...]]
) -> None:
    fields = list(fields)
    columns = ", ".join(target.ops.quote_name(field.column) for field in fields)
    marks = ", ".join(["%s"] * len(fields))
    table = target.ops.quote_name(model._meta.db_table)
    statement = f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - our names
    with target.cursor() as cursor:
        cursor.executemany(statement, list(_as_stored(target, fields, rows)))


def _as_stored(
    target: BaseDatabaseWrapper, fields: list[Any], rows: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        yield tuple(
            _ascii(value) if isinstance(field, models.JSONField) else field.get_db_prep_save(value, target)
            for field, value in zip(fields, row, strict=True)
        )


def _ascii(text: str | None) -> str | None:
    """JSON from PostgreSQL as the panel writes it to SQLite. The verification of the log compares the text."""
    return None if text is None else _NOT_ASCII.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """Outside of its strings, JSON is ASCII."""
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _compare(model: Model, target: str, wanted: int) -> None:
    found = model._default_manager.using(target).count()
    if found != wanted:
        raise NotTheSame(f"{model._meta.db_table} has {found} rows in the target, but {wanted} in the source")


def _reset_sequences(chosen: list[Model], target: BaseDatabaseWrapper) -> None:
    """SQLite's own counters follow the highest number that was inserted."""
    with target.cursor() as cursor:
        for statement in target.ops.sequence_reset_sql(no_style(), chosen):
            cursor.execute(statement)
