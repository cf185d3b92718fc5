"""Reading tables that somebody may have changed by hand: SQLite lets any column hold anything, PostgreSQL a time that
Python has no word for. Nothing read here stops on one bad value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import DataError, connection, models
from django.db.models import F, Func, QuerySet

from taskruns.verifier import UNREADABLE

Q = TypeVar("Q", bound=QuerySet[Any, Any])
STRANGE_VALUES = (*UNREADABLE, DataError)


@contextmanager
def lenient() -> Iterator[None]:
    """On SQLite a text that is no UTF-8 is read with its odd bytes, instead of failing the whole query."""
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


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def numbered(rows: Q, *, well: bool = True) -> Q:
    """The rows whose `seq` is a number, or those whose is none: on SQLite it may be a text, bytes or a fraction."""
    if connection.vendor != "sqlite":
        return rows if well else rows.none()
    kind = Func(F("seq"), function="typeof", output_field=models.CharField())
    typed = rows.alias(seq_kind=kind)
    return typed.filter(seq_kind="integer") if well else typed.exclude(seq_kind="integer")


def as_stored(model: type[models.Model], pk: int, names: tuple[str, ...]) -> list[Any]:
    """One row's columns just as the database has them, as JSON values: for rows that Django cannot read."""
    # On SQLite an expression, which has no type of its own, or the type's converter would fail as before.
    spelled = '"{}"::text' if connection.vendor == "postgresql" else 'ifnull("{}", NULL)'
    wanted = ", ".join(map(spelled.format, names))
    with lenient(), connection.cursor() as cursor:
        cursor.execute(f'SELECT {wanted} FROM "{model._meta.db_table}" WHERE id = %s', [pk])  # noqa: S608 - our own names
        row = cursor.fetchone()
    return [_json(value) for value in row]


def _json(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    return str(value).encode("utf-8", "backslashreplace").decode()
