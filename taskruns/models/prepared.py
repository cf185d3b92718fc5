"""Queries of almost every request or round, which Django compiles once per process: compiling takes longer than the
database needs to answer. Also rows and answers that a process keeps.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from functools import cache, cached_property
from time import monotonic
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import DateTimeField, Model, QuerySet, UUIDField, Value
from django.db.models.fields import Field
from django.db.models.sql import UpdateQuery

R = TypeVar("R")
V = TypeVar("V")
Fetched = tuple[Any, ...]  # a row as the database driver returns it


class Slot(Value):
    """A place in a prepared query for a value that each call gives under this name."""

    def __init__(self, name: str, output_field: "Field[Any, Any]") -> None:
        super().__init__(name, output_field)

    def as_sql(self, _compiler: Any, _connection: Any) -> Any:
        """The slot itself is the parameter: it is filled with each call."""
        return "%s", [self]

    def fill(self, values: Mapping[str, Any], connection: Any) -> Any:
        return self.output_field.get_db_prep_save(self.read(values), connection)

    def read(self, values: Mapping[str, Any]) -> Any:
        return values[self.value]


class TimeSlot(Slot):
    """A slot for a time. `TimeSlot() + delta` is the time `delta` later."""

    def __init__(self, name: str = "now", shift: timedelta = timedelta(0)) -> None:
        super().__init__(name, DateTimeField())
        self.shift = shift

    def __add__(self, distance: timedelta) -> Self:  # type: ignore[override]
        return type(self)(self.value, self.shift + distance)

    def __sub__(self, distance: timedelta) -> Self:  # type: ignore[override]
        return self + -distance

    def read(self, values: Mapping[str, Any]) -> Any:
        return values[self.value] + self.shift


def numbered_slots(number: int) -> list[Any]:
    """A slot for each of this number of ids. Fill them with `numbered`."""
    return [Slot(f"id_{at}", UUIDField()) for at in range(number)]


def numbered(ids: Iterable[UUID]) -> dict[str, Any]:
    return {f"id_{at}": id_ for at, id_ in enumerate(ids)}


class Prepared(Generic[R]):
    """A query in which every value that differs between calls is a slot.

    A time or a setting that is read while the query is built would never change again, so it must be a slot too. A
    query that locks must run in a transaction: Django checks only the first call. `most` needs a query without a slice.
    """

    def __init__(self, queryset: "QuerySet[Any, R]") -> None:
        self._queryset = queryset
        self._compiler = queryset.query.get_compiler(DEFAULT_DB_ALIAS)
        self._sql, self._parameters = self._compiler.as_sql()

    def rows(self, *, most: int | None = None, **values: Any) -> list[R]:
        """What the query finds with a value for each slot."""
        return self._read(self._fetched(most, values))

    def _fetched(self, most: int | None, values: Mapping[str, Any]) -> list[Fetched]:
        sql = self._sql if most is None else f"{self._sql} LIMIT {most:d}"
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(sql, _filled(self._parameters, values))
            return list(cursor.fetchall())

    def _read(self, fetched: Sequence[Fetched]) -> list[R]:
        """Django itself reads the rows, as for any other query."""
        compiler: Any = copy(self._compiler)  # each thread has its own connection
        compiler.connection = connections[DEFAULT_DB_ALIAS]
        compiler.execute_sql = _always([fetched])
        query: Any = copy(self._compiler.query)
        query.get_compiler = _always(compiler)
        found: Any = QuerySet(self._queryset.model, query=query)
        found._iterable_class = self._queryset._iterable_class  # noqa: SLF001 - rows may be tuples
        return list(found)

    def exists(self, **values: Any) -> bool:
        sql, parameters = self._existence
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(sql, _filled(parameters, values))
            return cursor.fetchone() is not None

    @cached_property
    def _existence(self) -> tuple[str, Sequence[Any]]:
        sql, parameters = self._queryset.query.exists().get_compiler(DEFAULT_DB_ALIAS).as_sql()
        return sql, parameters


class PreparedShared(Prepared[R]):
    """A query of pages that show the same rows again and again. Rows that are equal in the database are read once, into
    one object that all share: nobody may change it. Up to `most` are kept.
    """

    def __init__(self, queryset: "QuerySet[Any, R]", *, most: int) -> None:
        super().__init__(queryset)
        self._most = most
        self._known: dict[Fetched, R] = {}

    def rows(self, *, most: int | None = None, **values: Any) -> list[R]:
        fetched = self._fetched(most, values)
        known = self._known  # another thread may replace it
        new = [row for row in fetched if row not in known]
        if len(known) + len(new) > self._most:
            known, new = {}, fetched
        if new:
            known.update(zip(new, self._read(new), strict=True))
            self._known = known
        return [known[row] for row in fetched]


class Compiled(Prepared[R]):
    """A query with its values in it. Return it from a function with `lru_cache` whose arguments decide all of it."""

    def __init__(self, queryset: "QuerySet[Any, R]") -> None:
        self._finds_nothing = False
        try:
            super().__init__(queryset)
        except EmptyResultSet:
            self._finds_nothing = True  # whatever is in the database

    def rows(self, *, most: int | None = None, **values: Any) -> list[R]:
        return [] if self._finds_nothing else super().rows(most=most, **values)


class ForAMinute(Generic[V]):
    """Answers that need not be exact, each kept for a minute. When there are `most`, all are forgotten."""

    SECONDS = 60

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._known: dict[Hashable, tuple[V, float]] = {}

    def get(self, key: Hashable) -> V | None:
        value, until = self._known.get(key, (None, 0.0))
        return value if monotonic() < until else None

    def keep(self, key: Hashable, value: V) -> None:
        if key not in self._known and len(self._known) >= self._most:
            self._known = {}  # another thread may read the old one
        self._known[key] = value, monotonic() + self.SECONDS


class PreparedUpdate:
    """An UPDATE in which every value that differs between calls is a slot. It does not fill in folded columns.

    `returning`: columns of the updated rows, as they are afterwards, for `rows`.
    """

    def __init__(self, queryset: "QuerySet[Any]", *, returning: Sequence[str] = (), **columns: Any) -> None:
        query: Any = queryset.query.chain(UpdateQuery)
        query.add_update_values(columns)
        query.clear_select_clause()
        self._sql, self._parameters = query.get_compiler(DEFAULT_DB_ALIAS).as_sql()
        self._returned = Prepared[Any](queryset.order_by().values_list(*returning)) if returning else None
        if returning:
            quote = connections[DEFAULT_DB_ALIAS].ops.quote_name
            get_field = queryset.model._meta.get_field
            names = ", ".join(quote(get_field(name).column) for name in returning)
            self._sql += f" RETURNING {names}"

    def run(self, *, before: Sequence[str] = (), **values: Any) -> int:
        """Returns how many rows were updated. `before`: as `soft_statement` yields it."""
        if self._returned is not None:
            raise TypeError("This update returns rows.")
        with self._executed(before, values) as cursor:
            return int(cursor.rowcount)

    def rows(self, *, before: Sequence[str] = (), **values: Any) -> list[Any]:
        """The updated rows, as tuples of the returned columns."""
        if self._returned is None:
            raise TypeError("This update returns no columns.")
        with self._executed(before, values) as cursor:
            return self._returned._read(cursor.fetchall())  # noqa: SLF001 - it reads them like its own

    @contextmanager
    def _executed(self, before: Sequence[str], values: Mapping[str, Any]) -> Iterator[Any]:
        with transaction.mark_for_rollback_on_error(DEFAULT_DB_ALIAS), connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            _execute(cursor, before, self._sql, _filled(self._parameters, values))
            yield cursor


def update_row(
    model: type[Model],
    pk: object,
    *,
    only_if: Mapping[str, Any] | None = None,
    before: Sequence[str] = (),
    **changes: Any,
) -> int:
    """`filter(pk=pk, **only_if).update(**changes)`. `only_if`: values of columns; None never matches."""
    required = {f"only_if_{name}": value for name, value in (only_if or {}).items()}
    prepared = _row_update(model, tuple(only_if or ()), tuple(changes))
    return prepared.run(before=before, pk=pk, **required, **{f"set_{name}": value for name, value in changes.items()})


@cache
def _row_update(model: type[Model], required: tuple[str, ...], changed: tuple[str, ...]) -> PreparedUpdate:
    def slots(prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: Slot(f"{prefix}{name}", model._meta.get_field(name)) for name in names}  # type: ignore[arg-type]

    pk = Slot("pk", model._meta.pk)
    rows = model._default_manager.filter(pk=pk, **slots("only_if_", required))
    return PreparedUpdate(rows, **slots("set_", changed))


def _filled(parameters: Sequence[Any], values: Mapping[str, Any]) -> tuple[Any, ...]:
    connection = connections[DEFAULT_DB_ALIAS]
    return tuple(it.fill(values, connection) if isinstance(it, Slot) else it for it in parameters)


_ALONG_INDEXES = ("SET LOCAL enable_bitmapscan = off", "SET LOCAL enable_seqscan = off")


def _execute(cursor: Any, before: Sequence[str], sql: str, parameters: Sequence[Any]) -> None:
    """`before`: settings of PostgreSQL, sent with the statement, so that they need no round trip of their own. They end
    with it, or with its transaction.
    """
    cursor.execute("; ".join([*before, sql]), parameters)
    for _ in before:
        cursor.nextset()


class PreparedNumbers:
    """How many rows each of these queries finds, in one query. A sliced query counts no further than its slice.

    PostgreSQL may only go along indexes: without statistics it expects few rows, and would collect all of them, or read
    the whole table, before it counts the first one.
    """

    def __init__(self, each: "Sequence[QuerySet[Any]]") -> None:
        parts, self._parameters = [], []
        for number, queryset in enumerate(each):
            try:
                sql, parameters = queryset.query.get_compiler(DEFAULT_DB_ALIAS).as_sql()
            except EmptyResultSet:
                sql, parameters = "SELECT 1 WHERE 1 = 0", ()
            parts.append(f"(SELECT COUNT(*) FROM ({sql}) c{number})")  # noqa: S608 - compiled by Django
            self._parameters += parameters
        self._sql = f"SELECT {', '.join(parts)}"

    def rows(self, **values: Any) -> tuple[int, ...]:
        """The numbers, with a value for each slot."""
        connection = connections[DEFAULT_DB_ALIAS]
        before = _ALONG_INDEXES if connection.vendor == "postgresql" else ()
        with connection.cursor() as cursor:
            _execute(cursor, before, self._sql, _filled(self._parameters, values))
            found: tuple[int, ...] = cursor.fetchone()
        return found


def _always(result: Any) -> Callable[..., Any]:
    return lambda *_arguments, **_options: result
