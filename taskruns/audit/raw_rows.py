"""Reading the log's tables even where someone has changed them by hand.

SQLite lets any column hold any value, and PostgreSQL can hold times that Python cannot represent. Whole rows are read
by `services.audit.rows`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import DataError, connection, models
from django.db.models import F, Func, QuerySet

from taskruns.verifier import UNREADABLE

Rows = TypeVar("Rows", bound=QuerySet[Any, Any])
# What a query raises for a value that its column should not hold.
UNREADABLE_VALUE = (*UNREADABLE, DataError)


@contextmanager
def tolerant_text() -> Iterator[None]:
    """On SQLite, keep invalid UTF-8 bytes in text instead of failing the whole query."""
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    raw = connection.connection
    before, raw.text_factory = raw.text_factory, _text
    try:
        yield
    finally:
        raw.text_factory = before


def with_number(rows: Rows) -> Rows:
    """The rows whose `seq` is an integer. On SQLite it may also be text, bytes or a fraction."""
    return rows if connection.vendor != "sqlite" else _typed(rows).filter(seq_type="integer")


def without_number(rows: Rows) -> Rows:
    """The rows whose `seq` is not an integer."""
    return rows.none() if connection.vendor != "sqlite" else _typed(rows).exclude(seq_type="integer")


def stored_values(model: type[models.Model], pk: int, names: tuple[str, ...]) -> dict[str, Any]:
    """One row's raw column values as JSON values, for rows that Django cannot read."""
    # On SQLite, select an expression: it has no declared type, so no converter runs and fails again.
    untyped = '"{}"::text' if connection.vendor == "postgresql" else 'ifnull("{}", NULL)'
    columns = ", ".join(map(untyped.format, names))
    with tolerant_text(), connection.cursor() as cursor:
        cursor.execute(f'SELECT {columns} FROM "{model._meta.db_table}" WHERE id = %s', [pk])  # noqa: S608 - our names
        row = cursor.fetchone()
    return dict(zip(names, map(_json, row), strict=True))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _typed(rows: Rows) -> Rows:
    return rows.alias(seq_type=Func(F("seq"), function="typeof", output_field=models.CharField()))


def _json(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    return str(value).encode("utf-8", "backslashreplace").decode()
