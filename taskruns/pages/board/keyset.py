"""One page of runs, without counting and without OFFSET over what was shown.

Every order ends with the id, so no two rows share a place and a page can begin after any row; rows that arrive
meanwhile move nothing. The indexes, and what each is for:

    run_board            team, -rank, -sorted_at, -id   the board as it opens, and every filter that is walked through
    run_board_by_status  + status                       one status
    run_board_by_task    task instead of team           one task
    run_by_created, run_by_started, run_by_duration, run_by_errors   the other orders
    run_by_arize_id, run_by_experiment                  beginnings of ids (`matching.py`)

A filter without an index is walked: a page looks at NEAR rows, which is enough for a filter that many runs pass, and
then, if it is not full, at the few rows that an index of the filter's own gives (up to NARROW of them), else at FAR
rows. It says how far it came, and goes on from there.
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

from .plan import _FIRST, _LAST, Place, Stream, micros, streams
from .rows import with_creators

NEAR = 2_000
FAR = 20_000
NARROW = 2_000
_NOT_SHOWN = (
    *("as_read", "data_start_time", "data_end_time", "first_seen_at"),
    *(f"task__{name}" for name in ("as_read", "last_run_at", "listed_at", "runs_read_at", "runs_read_to", "swept_at")),
    *(f"task__credential__{name}" for name in ("ciphertext", "spaces", "listing_at", "recent_calls", "created_at")),
    *(f"task__credential__{name}" for name in ("next_refresh_at", "claimed_until", "tasks_read_at", "expires_on")),
    *("task__credential__first_contact_done_at", "task__credential__users_refused_at"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Rows in order with their places. `walked_to`: the walk ended there, rows beyond it were not looked at."""

    rows: tuple[tuple[Place, Run], ...]
    walked_to: Place | None = None


def find(asked: Conditions, wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime) -> Found:
    """The next `limit` rows after the cursor, or before it, then nearest first."""
    backwards = cursor is not None and cursor.backwards
    descending = wanted.descending != backwards
    parts = streams(wanted, now)
    if cursor is None and asked.rest is None and wanted.sort is Sort.ACTIVE:
        # The index knows both ranks, one after the other.
        runs = Run.objects.filter(asked.walked).order_by("-rank", "-sorted_at", "-pk")
        return Found(tuple((Place(run.rank, micros(run.sorted_at), run.pk), run) for run in loaded(runs)[:limit]))
    if wanted.sort is Sort.ACTIVE:
        in_turn = parts if descending else parts[::-1]
        return _one_after_the_other(asked, wanted, in_turn, cursor, limit, descending=descending)
    each = [_read(asked, part, cursor, limit, descending=descending) for part in parts]
    return merged(each, limit, descending=descending)


def _one_after_the_other(
    asked: Conditions,
    wanted: BoardFilter,
    parts: tuple[Stream, ...],
    cursor: Cursor | None,
    limit: int,
    *,
    descending: bool,
) -> Found:
    rows: list[tuple[Place, Run]] = []
    for part in parts:
        if part.is_past(wanted, cursor, descending=descending):
            continue
        found = _read(asked, part, part.within(wanted, cursor), limit - len(rows), descending=descending)
        rows += found.rows
        if found.walked_to is not None or len(rows) >= limit:
            return Found(tuple(rows), found.walked_to)
    return Found(tuple(rows))


def in_order(*, descending: bool) -> Callable[[Place], tuple[int, int, int]]:
    """A key to sort places by."""
    sign = -1 if descending else 1
    return lambda place: (sign * place.rank, sign * place.value, sign * place.id.int)


def merged(each: Iterable[Found], limit: int, *, descending: bool) -> Found:
    """Nothing beyond the nearest end of a walk: rows of that stream might lie before it."""
    parts = list(each)
    key = in_order(descending=descending)
    end = min((found.walked_to for found in parts if found.walked_to is not None), key=key, default=None)
    rows = sorted((row for found in parts for row in found.rows), key=lambda row: key(row[0]))
    rows = [row for row in rows if end is None or key(row[0]) <= key(end)]
    return Found(tuple(rows[:limit]), None if len(rows) >= limit else end)


def _read(asked: Conditions, part: Stream, cursor: Cursor | None, limit: int, *, descending: bool) -> Found:
    if limit <= 0:
        return Found(())
    base = Run.objects.filter(asked.walked & part.where)
    if cursor is not None:
        base = part.after(base, cursor, descending=descending)
    ordered = part.ordered(base, descending=descending)
    if asked.rest is None:
        return _found(part, ordered, limit)
    if part.rank == 1 or part.since is not None:
        # Active runs are few beside those that have ended.
        return _found(part, ordered.filter(asked.rest), limit)
    return _walk(asked, part, ordered, limit, descending=descending)


def _walk(asked: Conditions, part: Stream, ordered: QuerySet[Run], limit: int, *, descending: bool) -> Found:
    assert asked.rest is not None  # noqa: S101 - nothing to walk for otherwise
    within = "gte" if descending != (part.since is not None) else "lte"
    places = ordered.values_list(part.column, flat=True)
    # Without so many rows the whole of it is near.
    end = Subquery(places[NEAR - 1 : NEAR])
    near = ordered.filter(asked.rest, **{f"{part.column}__{within}": Coalesce(end, _extreme(part, within))})
    found = Found(()) if asked.is_sparse else _found(part, near, limit)
    if len(found.rows) >= limit:
        return found
    if (ids := _few(asked.narrow)) is not None:
        return _found(part, ordered.filter(asked.rest, pk__in=ids), limit)
    # Read first: the end that is told must be the one up to which the rows were looked at.
    bound, *further = list(places[FAR - 1 : FAR + 1]) or [None]
    if not further:
        return _found(part, ordered.filter(asked.rest), limit)
    found = _found(part, ordered.filter(asked.rest, **{f"{part.column}__{within}": bound}), limit)
    if len(found.rows) >= limit:
        return found
    # All rows with this very value were looked at.
    beyond = _FIRST if descending else _LAST
    return replace(found, walked_to=Place(part.rank, part.value_of(bound), beyond))


def _few(narrow: Sequence[Q]) -> list[UUID] | None:
    """The runs that pass the first of these which no more than NARROW pass; None: more pass each. One question."""
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


def _extreme(part: Stream, within: str) -> datetime | int:
    """A value that no row lies beyond."""
    if part.column.endswith("_at"):
        return datetime(1, 1, 1, tzinfo=UTC) if within == "gte" else datetime(9999, 12, 31, tzinfo=UTC)
    return -(2**62) if within == "gte" else 2**62


def _found(part: Stream, runs: QuerySet[Run], limit: int) -> Found:
    return Found(tuple((_place(part, run), run) for run in loaded(runs)[:limit]))


def _place(part: Stream, run: Run) -> Place:
    return Place(part.rank, part.value(run), run.pk)


def loaded(runs: QuerySet[Run]) -> QuerySet[Run]:
    """With what a row shows, and without what it does not: to read the rest costs more than to show the row."""
    return with_creators(runs.select_related("task__credential").defer(*_NOT_SHOWN))


MOST = 200  # parts of one union; SQLite takes no more than 500


def may_find_together(asked: Sequence[Conditions]) -> bool:
    """Whether each one's rows stand in an index: a filter that is walked needs further questions for each."""
    return 1 < len(asked) <= MOST and all(each.rest is None for each in asked)


def find_together(
    asked: Sequence[Conditions], wanted: BoardFilter, cursor: Cursor | None, *, limit: int, now: datetime
) -> Found:
    """The next `limit` rows of all of them after the cursor, or before it, then nearest first."""
    descending = wanted.descending != (cursor is not None and cursor.backwards)
    if cursor is None and wanted.sort is Sort.ACTIVE:
        places = list(_newest(asked, limit))
    else:
        parts = [part for part in streams(wanted, now) if not part.is_past(wanted, cursor, descending=descending)]
        places = [
            place
            for part in parts
            for place in _nearest(asked, part, part.within(wanted, cursor), limit, descending=descending)
        ]
    places = sorted(places, key=in_order(descending=descending))[:limit]
    runs = loaded(Run.objects.all()).in_bulk([place.id for place in places])
    return Found(tuple((place, runs[place.id]) for place in places if place.id in runs))


def _newest(asked: Sequence[Conditions], limit: int) -> Iterator[Place]:
    """Of each the `limit` first: the index knows both ranks, one after the other."""
    each = [Run.objects.filter(part.walked).order_by("-rank", "-sorted_at", "-pk") for part in asked]
    for pk, rank, at in _union(each, limit, "pk", "rank", "sorted_at"):
        yield Place(rank, micros(at), pk)


def _nearest(
    asked: Sequence[Conditions], part: Stream, cursor: Cursor | None, limit: int, *, descending: bool
) -> Iterator[Place]:
    """Of each the `limit` nearest."""
    each = []
    for conditions in asked:
        runs = Run.objects.filter(conditions.walked & part.where)
        if cursor is not None:
            runs = part.after(runs, cursor, descending=descending)
        each.append(part.ordered(runs, descending=descending))
    for pk, value in _union(each, limit, "pk", part.column):
        yield Place(part.rank, part.value_of(value), pk)


def _union(each: Sequence[QuerySet[Run]], limit: int, *columns: str) -> QuerySet[Run, tuple[Any, ...]]:
    # The limit stands one level down: SQLite has none in the parts of a union.
    first, *others = (Run.objects.filter(pk__in=runs.values("pk")[:limit]).values_list(*columns) for runs in each)
    return first.union(*others, all=True)
