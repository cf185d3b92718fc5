"""Which runs one page shows, without counting and without OFFSET over the rows already shown. `rows.py` loads them.

Every order ends with the id, so no two rows share a place and a page can begin after any row. Rows that arrive between
two pages shift nothing. The indexes, and what each is for:

    run_board            team, -rank, -sorted_at, -id   the default order, and every filter that is scanned
    run_board_by_status  + status                       one status
    run_board_by_task    task instead of team           one task
    run_by_created, run_by_started, run_by_duration, run_by_errors, run_by_attention   the other orders
    run_board_with_errors, run_board_longer, run_board_attention   flags
    run_by_creator, run_by_share, run_ended_by_status   filters that are read by themselves if they find few runs
    run_by_arize_id, run_by_experiment                  exact ids, and beginnings of those not filled in yet
    run_ended_...                                       the counts of the last 24 hours (`counts.py`)
    run_not_filled_in                                   what an upgrade has still to fill in (`search.py`)

A filter without an index is scanned. The first NEAR rows are enough for a filter that many runs pass. If they do not
fill the page, it is read from an index of the filter's own if that finds at most NARROW rows, else from the first FAR
rows. The page then says how far the scan came, and the next page continues there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from taskruns.forms import BoardFilter, Cursor, Sort
from taskruns.models import Run
from taskruns.models.prepared import Compiled, ForAMinute, PreparedNumbers
from taskruns.services.runs.matching import Conditions, Narrow

from .plan import FIRST_ID, LAST_ID, Place, Stream, is_ranked, is_read_descending, micros, streams

# Rows.
NEAR = 2_000
FAR = 20_000
NARROW = 2_000
KEPT = 64  # of each kind of query, of about 50 kB: pages in a row need the same ones
MOST_COUNTED = 6  # parts that are counted one by one
MOST_TOGETHER = 200  # parts of one union; SQLite takes no more than 500


@dataclass(frozen=True, slots=True)
class Found:
    """Places of rows in order. `scanned_to`: where a scan ended before the last row; None if none did."""

    places: tuple[Place, ...]
    scanned_to: Place | None = None


def find(conditions: Conditions, wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime) -> Found:
    """The next `limit` rows after the cursor. With a backwards cursor: the rows before it, nearest first."""
    if cursor is None and conditions.rest is None and wanted.sort is Sort.ACTIVE:
        rows = _first_page(conditions, limit).rows()
        return Found(tuple(Place(rank, micros(at), pk) for pk, rank, at in rows))
    descending = is_read_descending(wanted, cursor)
    parts = streams(wanted, now)
    if is_ranked(wanted):
        in_turn = parts if descending else parts[::-1]
        return _one_after_the_other(conditions, wanted, in_turn, cursor, limit, descending=descending)
    each = [_read(conditions, stream, cursor, limit, descending=descending) for stream in parts]
    return merged(each, limit, descending=descending)


def may_find_together(each: Sequence[Conditions]) -> bool:
    """Whether one query can read all of these. A filter that is scanned needs further queries of its own."""
    return 1 < len(each) <= MOST_TOGETHER and all(conditions.rest is None for conditions in each)


def find_together(
    each: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime
) -> Found:
    """Like `find`, but merges the rows of several conditions into one order."""
    descending = is_read_descending(wanted, cursor)
    if cursor is None and wanted.sort is Sort.ACTIVE:
        places = list(_newest(each, limit))
    else:
        places = [
            place
            for stream in streams(wanted, now)
            if not stream.is_past(wanted, cursor, descending=descending)
            for place in _nearest(each, stream, stream.within(wanted, cursor), limit, descending=descending)
        ]
    return Found(tuple(sorted(places, key=_sort_key(descending=descending))[:limit]))


def count(
    each: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor, *, limit: int, now: datetime
) -> tuple[int, bool]:
    """How many rows come after the cursor, or before it if it is backwards, and whether there may be more: a scan ends
    after NEAR rows.
    """
    descending = is_read_descending(wanted, cursor)
    counters = [
        _Counter(part, stream, stream.within(wanted, cursor), limit, descending=descending)
        for conditions in each
        for part in _counted_parts(conditions)
        for stream in streams(wanted, now)
        if not stream.is_past(wanted, cursor, descending=descending)
    ]
    numbers = iter(_counter_numbers(tuple(counters)).rows())
    number, is_open = 0, False
    for it in counters:
        found, may_be_more = it.result(numbers)
        number, is_open = number + found, is_open or may_be_more
        if number >= limit:
            return limit, True
    return number, is_open


def _counted_parts(conditions: Conditions) -> Sequence[Conditions]:
    """A few parts are counted along their indexes; many would make a long query."""
    return conditions.parts if len(conditions.apart) <= MOST_COUNTED else (conditions,)


def count_all(each: Sequence[Conditions], *, limit: int) -> int | None:
    """How many runs match in all, up to the limit. None if a filter has no index of its own."""
    known = [it.number for it in each if it.number is not None]
    if len(known) == len(each):
        return min(sum(known), limit)
    if any(it.is_single and it.is_sparse for it in each):
        return limit  # a search that more runs match
    if not all(it.ways for it in each):
        return None
    ways = tuple(way for it in each for way in it.ways)
    most = max(_number_in_each(ways, limit).rows())
    return most if most == limit or len(ways) == 1 else _number_in_any(ways, limit).rows()[0]


@lru_cache(maxsize=KEPT)
def _number_in_each(ways: tuple[Q, ...], limit: int) -> PreparedNumbers:
    """How many runs are found in each of these ways."""
    # No column, so that no row is looked up in the table if an index can check it.
    return PreparedNumbers([Run.objects.filter(way).order_by().values(one=Value(1))[:limit] for way in ways])


@lru_cache(maxsize=KEPT)
def _number_in_any(ways: tuple[Q, ...], limit: int) -> PreparedNumbers:
    """How many runs are found in one of these ways or in several."""
    # The limits are in subqueries because SQLite allows none in the parts of a union.
    found = (Run.objects.filter(way).order_by().values("pk")[:limit] for way in ways)
    first, *others = (Run.objects.filter(pk__in=ids).values("pk") for ids in found)
    return PreparedNumbers([first.union(*others)[:limit]])


@dataclass(frozen=True, slots=True)
class _Counter:
    """Counts the rows of one stream after the cursor, up to `limit`: by its column, which the index has."""

    conditions: Conditions
    stream: Stream
    cursor: Cursor | None
    limit: int
    descending: bool

    def queries(self) -> Iterator[QuerySet[Run, Any]]:
        """All rows that pass; if that takes a scan, those among the nearest rows, and how many these are."""
        ordered = self._ordered()
        if not _is_scanned(self.conditions, self.stream):
            passing = ordered if self.conditions.rest is None else ordered.filter(self.conditions.rest)
            yield passing.order_by().values(self.stream.column)[: self.limit]
            return
        near = _near(self.stream, ordered, descending=self.descending)
        yield near.order_by().filter(self.conditions.rest).values(self.stream.column)[: self.limit]
        yield ordered.order_by().values(self.stream.column)[:NEAR]

    def result(self, numbers: Iterator[int]) -> tuple[int, bool]:
        """`numbers`: those of the queries. The number of rows, and whether there may be more."""
        found = next(numbers)
        return found, _is_scanned(self.conditions, self.stream) and next(numbers) >= NEAR

    def _ordered(self) -> QuerySet[Run]:
        return _from_cursor(self.conditions, self.stream, self.cursor, descending=self.descending)


@lru_cache(maxsize=KEPT)
def _counter_numbers(counters: tuple[_Counter, ...]) -> PreparedNumbers:
    return PreparedNumbers([query for it in counters for query in it.queries()])


def merged(each: Iterable[Found], limit: int, *, descending: bool) -> Found:
    """Omit rows beyond the nearest end of a scan: unscanned rows of that stream may come before them."""
    parts = list(each)
    key = _sort_key(descending=descending)
    end = min((found.scanned_to for found in parts if found.scanned_to is not None), key=key, default=None)
    places = sorted((place for found in parts for place in found.places), key=key)
    places = [place for place in places if end is None or key(place) <= key(end)]
    return Found(tuple(places[:limit]), None if len(places) >= limit else end)


def _sort_key(*, descending: bool) -> Callable[[Place], tuple[int, int, int]]:
    sign = -1 if descending else 1
    return lambda place: (sign * place.rank, sign * place.value, sign * place.id.int)


# The same as long as nobody changes the filter.
@lru_cache(maxsize=KEPT)
def _first_page(conditions: Conditions, limit: int) -> Compiled[tuple[UUID, int, datetime]]:
    return Compiled(_active_first(conditions).values_list("pk", "rank", "sorted_at")[:limit])


def _active_first(conditions: Conditions) -> QuerySet[Run]:
    """In the order of `run_board`, which holds one rank after the other."""
    return Run.objects.filter(conditions.indexed).order_by("-rank", "-sorted_at", "-pk")


def _from_cursor(conditions: Conditions, stream: Stream, cursor: Cursor | None, *, descending: bool) -> QuerySet[Run]:
    """The indexed rows of the stream after the cursor, in order."""
    runs = Run.objects.filter(conditions.indexed & stream.where)
    if cursor is not None:
        runs = stream.after(runs, cursor, descending=descending)
    return stream.ordered(runs, descending=descending)


def _one_after_the_other(
    conditions: Conditions,
    wanted: BoardFilter,
    parts: tuple[Stream, ...],
    cursor: Cursor | None,
    limit: int,
    *,
    descending: bool,
) -> Found:
    """Read a stream only if those before it do not fill the page."""
    places: list[Place] = []
    for stream in parts:
        if stream.is_past(wanted, cursor, descending=descending):
            continue
        start = stream.within(wanted, cursor)
        found = _read(conditions, stream, start, limit - len(places), descending=descending)
        places += found.places
        if found.scanned_to is not None or len(places) >= limit:
            return Found(tuple(places), found.scanned_to)
    return Found(tuple(places))


def _read(conditions: Conditions, stream: Stream, cursor: Cursor | None, limit: int, *, descending: bool) -> Found:
    if limit <= 0:
        return Found(())
    nearest = _nearest_rows(conditions, stream, cursor, limit, descending=descending)
    found = Found(()) if nearest is None else _found(stream, nearest.rows())
    if len(found.places) >= limit or not _is_scanned(conditions, stream):
        return found
    return _scan(conditions, stream, cursor, limit, descending=descending)


def _is_scanned(conditions: Conditions, stream: Stream) -> bool:
    """Active runs are not, nor those that need attention: both are few."""
    return conditions.rest is not None and stream.rank == 0 and stream.since is None


@lru_cache(maxsize=KEPT)
def _nearest_rows(
    conditions: Conditions, stream: Stream, cursor: Cursor | None, limit: int, *, descending: bool
) -> Compiled[tuple[Any, ...]] | None:
    """The rows after the cursor that pass; if they must be scanned, those among the nearest. None for a scan that would
    hardly find any there.
    """
    ordered = _from_cursor(conditions, stream, cursor, descending=descending)
    if _is_scanned(conditions, stream):
        if conditions.is_sparse:
            return None
        ordered = _near(stream, ordered, descending=descending)
    passing = ordered if conditions.rest is None else ordered.filter(conditions.rest)
    return Compiled(_values(stream, passing, limit))


def _scan(conditions: Conditions, stream: Stream, cursor: Cursor | None, limit: int, *, descending: bool) -> Found:
    """Beyond the nearest rows."""
    if (ids := _few(conditions.narrow)) is not None:
        ordered = _from_cursor(conditions, stream, cursor, descending=descending)
        return _found(stream, _values(stream, ordered.filter(conditions.rest, pk__in=ids), limit))
    # Read the bound first, so that `scanned_to` matches the rows that were scanned.
    bound = _bound(conditions.indexed, stream, cursor, descending=descending)
    found = _found(stream, _far_rows(conditions, stream, cursor, limit, bound, descending=descending).rows())
    if bound is None or len(found.places) >= limit:
        return found
    # All rows with the value of the bound were scanned: the place lies after the last of them.
    after_all = FIRST_ID if descending else LAST_ID
    return replace(found, scanned_to=Place(stream.rank, stream.value_of(bound), after_all))


_bounds: ForAMinute[datetime | int] = ForAMinute(most=4 * KEPT)


def _bound(indexed: Q, stream: Stream, cursor: Cursor | None, *, descending: bool) -> datetime | int | None:
    """The value at which a scan ends, the same for all filters; None if at most FAR rows are left. A kept value is up
    to a minute old: the scan then also reads the rows added since.
    """
    key = indexed, stream, cursor, descending
    if (kept := _bounds.get(key)) is not None:
        return kept
    values = _far_values(indexed, stream, cursor, descending=descending).rows()
    if len(values) <= 1:
        return None
    bound: datetime | int = values[0]
    _bounds.keep(key, bound)
    return bound


@lru_cache(maxsize=KEPT)
def _far_values(indexed: Q, stream: Stream, cursor: Cursor | None, *, descending: bool) -> Compiled[Any]:
    """The values of the last row that is scanned and of the one after it."""
    ordered = _from_cursor(Conditions(indexed), stream, cursor, descending=descending)
    return Compiled(ordered.values_list(stream.column, flat=True)[FAR - 1 : FAR + 1])


@lru_cache(maxsize=KEPT)
def _far_rows(
    conditions: Conditions,
    stream: Stream,
    cursor: Cursor | None,
    limit: int,
    bound: datetime | int | None,
    *,
    descending: bool,
) -> Compiled[tuple[Any, ...]]:
    """The rows after the cursor that pass, as far as the bound."""
    passing = _from_cursor(conditions, stream, cursor, descending=descending).filter(conditions.rest)
    if bound is not None:
        passing = passing.filter(**{_until(stream, descending=descending): bound})
    return Compiled(_values(stream, passing, limit))


def _until(stream: Stream, *, descending: bool) -> str:
    """The lookup that ends a scan at a value, such as `sorted_at__gte`."""
    return f"{stream.column}__{'gte' if descending != (stream.since is not None) else 'lte'}"


def _near(stream: Stream, ordered: QuerySet[Run], *, descending: bool) -> QuerySet[Run]:
    """The first NEAR rows, and those with the same value as the last. If there are fewer, all of them."""
    until = _until(stream, descending=descending)
    values = ordered.values_list(stream.column, flat=True)
    return ordered.filter(**{until: Coalesce(Subquery(values[NEAR - 1 : NEAR]), _extreme(stream.column, until))})


def _few(narrow: Sequence[Narrow]) -> list[UUID] | None:
    """The runs of the first filter that at most NARROW runs match. None without such a filter. One query."""
    if not narrow:
        return None
    each = [
        Run.objects.filter(pk__in=Run.objects.filter(way).values("pk")[: NARROW + 1]).values_list("pk", Value(number))
        for number, it in enumerate(narrow)
        for way in it.ways
    ]
    found: list[set[UUID]] = [set() for _ in narrow]
    for pk, number in each[0].union(*each[1:], all=True):
        found[number].add(pk)
    return next((list(ids) for ids in found if len(ids) <= NARROW), None)


def _extreme(column: str, until: str) -> datetime | int:
    """A value beyond those of all rows."""
    is_lowest = until.endswith("__gte")
    if column.endswith("_at"):
        return datetime(1, 1, 1, tzinfo=UTC) if is_lowest else datetime(9999, 12, 31, tzinfo=UTC)
    return -(2**62) if is_lowest else 2**62


def _values(stream: Stream, runs: QuerySet[Run], limit: int) -> QuerySet[Run, tuple[Any, ...]]:
    return runs.values_list("pk", *stream.columns)[:limit]


def _found(stream: Stream, rows: Iterable[tuple[Any, ...]]) -> Found:
    return Found(tuple(Place(stream.rank, stream.value_of(*values), pk) for pk, *values in rows))


def _newest(each: Sequence[Conditions], limit: int) -> Iterator[Place]:
    """For each of the conditions, its first `limit` places."""
    for pk, rank, at in _newest_rows(tuple(each), limit).rows():
        yield Place(rank, micros(at), pk)


@lru_cache(maxsize=KEPT)
def _newest_rows(each: tuple[Conditions, ...], limit: int) -> Compiled[tuple[Any, ...]]:
    ordered = [_active_first(conditions) for conditions in each]
    return Compiled(_union(ordered, limit, "pk", "rank", "sorted_at"))


def _nearest(
    each: Sequence[Conditions], stream: Stream, cursor: Cursor | None, limit: int, *, descending: bool
) -> Iterator[Place]:
    """For each of the conditions, the `limit` places nearest to the cursor."""
    ordered = [_from_cursor(conditions, stream, cursor, descending=descending) for conditions in each]
    for pk, *values in _union(ordered, limit, "pk", *stream.columns):
        yield Place(stream.rank, stream.value_of(*values), pk)


def _union(each: Sequence[QuerySet[Run]], limit: int, *columns: str) -> QuerySet[Run, tuple[Any, ...]]:
    # The limit is in a subquery because SQLite allows no LIMIT in the parts of a union.
    first, *others = (Run.objects.filter(pk__in=runs.values("pk")[:limit]).values_list(*columns) for runs in each)
    return first.union(*others, all=True)
