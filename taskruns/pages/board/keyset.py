"""One page of runs, without counting and without OFFSET over the rows already shown.

Every order ends with the id, so no two rows share a place and a page can begin after any row. Rows that arrive between
two pages shift nothing. The indexes, and what each is for:

    run_board            team, -rank, -sorted_at, -id   the default order, and every filter that is scanned
    run_board_by_status  + status                       one status
    run_board_by_task    task instead of team           one task
    run_by_created, run_by_started, run_by_duration, run_by_errors   the other orders
    run_by_arize_id, run_by_experiment                  beginnings of ids (`services/runs/matching.py`)

A filter without an index is scanned. The first NEAR rows are enough for a filter that many runs pass. If they do not
fill the page, it is read from an index of the filter's own if that finds at most NARROW rows, else from the first FAR
rows. The page then says how far the scan came, and the next page continues there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from taskruns.forms import BoardFilter, Cursor, Sort
from taskruns.models import Run
from taskruns.services.runs.matching import Conditions

from .plan import FIRST_ID, LAST_ID, Place, Stream, is_read_descending, micros, streams
from .rows import with_creators

# Rows.
NEAR = 2_000
FAR = 20_000
NARROW = 2_000
MOST_TOGETHER = 200  # parts of one union; SQLite takes no more than 500
_NOT_SHOWN = (
    *("as_read", "data_start_time", "data_end_time", "first_seen_at"),
    *(f"task__{name}" for name in ("as_read", "last_run_at", "listed_at", "runs_read_at", "runs_read_to", "swept_at")),
    *(f"task__credential__{name}" for name in ("ciphertext", "spaces", "listing_at", "recent_calls", "created_at")),
    *(f"task__credential__{name}" for name in ("next_refresh_at", "claimed_until", "tasks_read_at", "expires_on")),
    *("task__credential__first_contact_done_at", "task__credential__users_refused_at"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Rows in order with their places. `scanned_to`: where a scan ended before the last row; None if none did."""

    rows: tuple[tuple[Place, Run], ...]
    scanned_to: Place | None = None


def find(conditions: Conditions, wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime) -> Found:
    """The next `limit` rows after the cursor. With a backwards cursor: the rows before it, nearest first."""
    if cursor is None and conditions.rest is None and wanted.sort is Sort.ACTIVE:
        runs = loaded(_active_first(conditions))[:limit]
        return Found(tuple((Place(run.rank, micros(run.sorted_at), run.pk), run) for run in runs))
    descending = is_read_descending(wanted, cursor)
    parts = streams(wanted, now)
    if wanted.sort is Sort.ACTIVE:
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
    places = sorted(places, key=_sort_key(descending=descending))[:limit]
    runs = loaded(Run.objects.all()).in_bulk([place.id for place in places])
    return Found(tuple((place, runs[place.id]) for place in places if place.id in runs))


def merged(each: Iterable[Found], limit: int, *, descending: bool) -> Found:
    """Omit rows beyond the nearest end of a scan: unscanned rows of that stream may come before them."""
    parts = list(each)
    key = _sort_key(descending=descending)
    end = min((found.scanned_to for found in parts if found.scanned_to is not None), key=key, default=None)
    rows = sorted((row for found in parts for row in found.rows), key=lambda row: key(row[0]))
    rows = [row for row in rows if end is None or key(row[0]) <= key(end)]
    return Found(tuple(rows[:limit]), None if len(rows) >= limit else end)


def loaded(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Load only what a row shows: reading the other columns costs more than rendering the row."""
    return with_creators(runs.select_related("task__credential").defer(*_NOT_SHOWN))


def _sort_key(*, descending: bool) -> Callable[[Place], tuple[int, int, int]]:
    sign = -1 if descending else 1
    return lambda place: (sign * place.rank, sign * place.value, sign * place.id.int)


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
    rows: list[tuple[Place, Run]] = []
    for stream in parts:
        if stream.is_past(wanted, cursor, descending=descending):
            continue
        start = stream.within(wanted, cursor)
        found = _read(conditions, stream, start, limit - len(rows), descending=descending)
        rows += found.rows
        if found.scanned_to is not None or len(rows) >= limit:
            return Found(tuple(rows), found.scanned_to)
    return Found(tuple(rows))


def _read(conditions: Conditions, stream: Stream, cursor: Cursor | None, limit: int, *, descending: bool) -> Found:
    if limit <= 0:
        return Found(())
    ordered = _from_cursor(conditions, stream, cursor, descending=descending)
    if conditions.rest is None:
        return _found(stream, ordered, limit)
    if stream.rank == 1 or stream.since is not None:
        # Active runs are few compared with those that have ended.
        return _found(stream, ordered.filter(conditions.rest), limit)
    return _scan(conditions, stream, ordered, limit, descending=descending)


def _scan(conditions: Conditions, stream: Stream, ordered: QuerySet[Run], limit: int, *, descending: bool) -> Found:
    assert conditions.rest is not None  # noqa: S101 - an index alone needs no scan
    column = stream.column
    until = f"{column}__gte" if descending != (stream.since is not None) else f"{column}__lte"
    values = ordered.values_list(column, flat=True)
    # With fewer than NEAR rows, all of them are near.
    near_end = Coalesce(Subquery(values[NEAR - 1 : NEAR]), _extreme(column, until))
    near = ordered.filter(conditions.rest, **{until: near_end})
    found = Found(()) if conditions.is_sparse else _found(stream, near, limit)
    if len(found.rows) >= limit:
        return found
    if (ids := _few(conditions.narrow)) is not None:
        return _found(stream, ordered.filter(conditions.rest, pk__in=ids), limit)
    # Read the bound first, so that `scanned_to` matches the rows that were scanned.
    bound, *further = list(values[FAR - 1 : FAR + 1]) or [None]
    if not further:
        return _found(stream, ordered.filter(conditions.rest), limit)
    found = _found(stream, ordered.filter(conditions.rest, **{until: bound}), limit)
    if len(found.rows) >= limit:
        return found
    # All rows with the value of the bound were scanned: the place lies after the last of them.
    after_all = FIRST_ID if descending else LAST_ID
    return replace(found, scanned_to=Place(stream.rank, stream.value_of(bound), after_all))


def _few(narrow: Sequence[Q]) -> list[UUID] | None:
    """The runs of the first condition that at most NARROW runs match. None without such a condition. One query."""
    if not narrow:
        return None
    each = [
        Run.objects.filter(pk__in=Run.objects.filter(part).values("pk")[: NARROW + 1]).values_list("pk", Value(number))
        for number, part in enumerate(narrow)
    ]
    ids: list[list[UUID]] = [[] for _ in narrow]
    for pk, number in each[0].union(*each[1:], all=True):
        ids[number].append(pk)
    return next((found for found in ids if len(found) <= NARROW), None)


def _extreme(column: str, until: str) -> datetime | int:
    """A value beyond those of all rows."""
    is_lowest = until.endswith("__gte")
    if column.endswith("_at"):
        return datetime(1, 1, 1, tzinfo=UTC) if is_lowest else datetime(9999, 12, 31, tzinfo=UTC)
    return -(2**62) if is_lowest else 2**62


def _found(stream: Stream, runs: QuerySet[Run], limit: int) -> Found:
    return Found(tuple((Place(stream.rank, stream.value(run), run.pk), run) for run in loaded(runs)[:limit]))


def _newest(each: Sequence[Conditions], limit: int) -> Iterator[Place]:
    """For each of the conditions, its first `limit` places."""
    ordered = [_active_first(conditions) for conditions in each]
    for pk, rank, at in _union(ordered, limit, "pk", "rank", "sorted_at"):
        yield Place(rank, micros(at), pk)


def _nearest(
    each: Sequence[Conditions], stream: Stream, cursor: Cursor | None, limit: int, *, descending: bool
) -> Iterator[Place]:
    """For each of the conditions, the `limit` places nearest to the cursor."""
    ordered = [_from_cursor(conditions, stream, cursor, descending=descending) for conditions in each]
    for pk, value in _union(ordered, limit, "pk", stream.column):
        yield Place(stream.rank, stream.value_of(value), pk)


def _union(each: Sequence[QuerySet[Run]], limit: int, *columns: str) -> QuerySet[Run, tuple[Any, ...]]:
    # The limit is in a subquery because SQLite allows no LIMIT in the parts of a union.
    first, *others = (Run.objects.filter(pk__in=runs.values("pk")[:limit]).values_list(*columns) for runs in each)
    return first.union(*others, all=True)
