"""Which streams of runs a board reads, each along an index, and the places of rows in their order."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet

from taskruns.forms import BadFilter, BoardFilter, Cursor, Sort
from taskruns.models import Run
from taskruns.models.runs import ACTIVE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
FIRST_ID = UUID(int=0)
LAST_ID = UUID(int=2**128 - 1)
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


def is_read_descending(wanted: BoardFilter, cursor: Cursor | None) -> bool:
    """Whether rows are read in descending order: a backwards cursor reverses the board's own order."""
    return wanted.descending != (cursor is not None and cursor.backwards)


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
