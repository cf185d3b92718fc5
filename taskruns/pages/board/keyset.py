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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from taskruns.forms import BadFilter, BoardFilter, Cursor, Sort
from taskruns.models import Run
from taskruns.models.runs import ACTIVE
from taskruns.services.runs.matching import Conditions

from .rows import with_creators

NEAR = 2_000
FAR = 20_000
NARROW = 2_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOT_SHOWN = (
    *("as_read", "data_start_time", "data_end_time", "first_seen_at"),
    *(f"task__{name}" for name in ("as_read", "last_run_at", "listed_at", "runs_read_at", "runs_read_to", "swept_at")),
    *(f"task__credential__{name}" for name in ("ciphertext", "spaces", "listing_at", "recent_calls", "created_at")),
    *(f"task__credential__{name}" for name in ("next_refresh_at", "claimed_until", "tasks_read_at", "expires_on")),
    *("task__credential__first_contact_done_at", "task__credential__users_refused_at"),
)
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)
_COLUMNS = {
    Sort.ACTIVE: "sorted_at",
    Sort.CREATED: "sorted_at",
    Sort.STARTED: "sort_started_at",
    Sort.DURATION: "duration_us",
    Sort.ERRORS: "sort_errors",
}


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    try:
        return _EPOCH + value * _MICROSECOND
    except OverflowError:
        raise BadFilter("This page link is damaged. Start again from the first page.") from None


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows that one index gives in order; a page is a merge of one or two of them.

    `since` is set where the order is by what runs have taken so far: then a row's value is `since` minus its start.
    """

    where: Q
    column: str
    rank: int = 0
    since: datetime | None = None

    def value(self, run: Run) -> int:
        return self.value_of(getattr(run, self.column))

    def value_of(self, found: datetime | int) -> int:
        if not isinstance(found, datetime):
            return found
        return micros(found) if self.since is None else (self.since - found) // _MICROSECOND

    def bound(self, value: int) -> datetime | int:
        """The column's value of a row with this value."""
        if self.since is not None:
            return moment(micros(self.since) - value)
        return moment(value) if self.column.endswith("_at") else value

    def after(self, runs: QuerySet[Run], cursor: Cursor, *, descending: bool) -> QuerySet[Run]:
        bound = self.bound(cursor.value)
        further = "lt" if descending != (self.since is not None) else "gt"
        tie = "lt" if descending else "gt"
        beyond = Q((f"{self.column}__{further}", bound)) | Q((self.column, bound), (f"pk__{tie}", cursor.id))
        # Said twice, because only the first is a place in an index.
        return runs.filter(Q((f"{self.column}__{further}e", bound)), beyond)

    def is_past(self, wanted: BoardFilter, cursor: Cursor | None, *, descending: bool) -> bool:
        """Whether the cursor lies behind all of these: where active runs come first, it may be among the ended ones."""
        if cursor is None or wanted.sort is not Sort.ACTIVE:
            return False
        return self.rank != cursor.rank and (self.rank > cursor.rank) == descending

    def within(self, wanted: BoardFilter, cursor: Cursor | None) -> Cursor | None:
        """The cursor, if it lies among these; None: all of them are still to come."""
        is_beside = cursor is not None and (wanted.sort is not Sort.ACTIVE or cursor.rank == self.rank)
        return cursor if is_beside else None

    def ordered(self, runs: QuerySet[Run], *, descending: bool) -> QuerySet[Run]:
        sign = "-" if descending != (self.since is not None) else ""
        return runs.order_by(f"{sign}{self.column}", "-pk" if descending else "pk")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in the order of its list."""

    rank: int
    value: int
    id: UUID

    def cursor(self, *, backwards: bool = False, at: int = 0) -> Cursor:
        return Cursor(self.rank, self.value, self.id, backwards, at)


@dataclass(frozen=True, slots=True)
class Found:
    """Rows in order with their places. `walked_to`: the walk ended there, rows beyond it were not looked at."""

    rows: tuple[tuple[Place, Run], ...]
    walked_to: Place | None = None


def streams(wanted: BoardFilter, now: datetime) -> tuple[Stream, ...]:
    """In descending order of rank."""
    column = _COLUMNS[wanted.sort]
    if wanted.sort is Sort.ACTIVE:
        ranks = {int(status in ACTIVE) for status in wanted.statuses} or {1, 0}
        return tuple(Stream(Q(rank=rank), column, rank) for rank in (1, 0) if rank in ranks)
    if wanted.sort is Sort.DURATION:
        goes_on = Q(rank=1, run_finished_at=None, run_started_at__isnull=False)
        rest = Q(rank=0) | Q(run_started_at=None) | Q(run_finished_at__isnull=False)
        return (Stream(goes_on, "run_started_at", since=now), Stream(rest, column))
    return (Stream(Q(), column),)


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
