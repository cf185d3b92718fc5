"""The streams of runs that a board reads, each along one index, and the places of rows in their order."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
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
    Sort.ATTENTION: "sorted_at",
}
# Orders with two streams, one after the other.
_RANKED = {Sort.ACTIVE, Sort.ATTENTION}
_HIGHEST = 2**15 - 1  # of a small integer
_LEVEL = 2**52  # more than any time in microseconds


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    try:
        return _EPOCH + value * _MICROSECOND
    except OverflowError:
        raise BadFilter("This page link is damaged. Start again from the first page.") from None


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows that one index returns in order. A page merges one or two streams.

    `since` is set if active runs are sorted by their duration so far: a row's value is then `since` minus its start.
    """

    where: Q
    column: str
    rank: int = 0
    since: datetime | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that make up a row's value."""
        return (self.column,)

    def value_of(self, *values: Any) -> int:
        found: datetime | int = values[0]
        if not isinstance(found, datetime):
            return found
        return micros(found) if self.since is None else (self.since - found) // _MICROSECOND

    def bound(self, value: int) -> datetime | int:
        """The column's value for this sort value."""
        if self.since is not None:
            return moment(micros(self.since) - value)
        return moment(value) if self.column.endswith("_at") else value

    def after(self, runs: QuerySet[Run], cursor: Cursor, *, descending: bool) -> QuerySet[Run]:
        bound = self.bound(cursor.value)
        further = "lt" if descending != (self.since is not None) else "gt"
        tie = "lt" if descending else "gt"
        beyond = Q((f"{self.column}__{further}", bound)) | Q((self.column, bound), (f"pk__{tie}", cursor.id))
        # The first condition is redundant, but only it can be looked up in an index.
        return runs.filter(Q((f"{self.column}__{further}e", bound)), beyond)

    def is_past(self, wanted: BoardFilter, cursor: Cursor | None, *, descending: bool) -> bool:
        """Whether the cursor is past this whole stream: if active runs come first, it may be among the ended ones."""
        if cursor is None or not is_ranked(wanted):
            return False
        return self.rank != cursor.rank and (self.rank > cursor.rank) == descending

    def within(self, wanted: BoardFilter, cursor: Cursor | None) -> Cursor | None:
        """The cursor if it is within this stream; None if the whole stream is still to come."""
        is_beside = cursor is not None and (not is_ranked(wanted) or cursor.rank == self.rank)
        return cursor if is_beside else None

    def ordered(self, runs: QuerySet[Run], *, descending: bool) -> QuerySet[Run]:
        sign = "-" if descending != (self.since is not None) else ""
        return runs.order_by(f"{sign}{self.column}", "-pk" if descending else "pk")


@dataclass(frozen=True, slots=True)
class Worst(Stream):
    """The rows that need attention: the worst first, and of equal ones the newest."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("attention", "sorted_at")

    def value_of(self, *values: Any) -> int:
        level: int = values[0]
        return level * _LEVEL + micros(values[1])

    def after(self, runs: QuerySet[Run], cursor: Cursor, *, descending: bool) -> QuerySet[Run]:
        level, at = cursor.value // _LEVEL, moment(cursor.value % _LEVEL)
        if not -_HIGHEST <= level <= _HIGHEST:
            raise BadFilter("This page link is damaged. Start again from the first page.")
        further = "lt" if descending else "gt"
        beyond = Q((f"attention__{further}", level)) | Q(attention=level) & (
            Q((f"sorted_at__{further}", at)) | Q(("sorted_at", at), (f"pk__{further}", cursor.id))
        )
        return runs.filter(Q((f"attention__{further}e", level)), beyond)

    def ordered(self, runs: QuerySet[Run], *, descending: bool) -> QuerySet[Run]:
        sign = "-" if descending else ""
        return runs.order_by(f"{sign}attention", f"{sign}sorted_at", f"{sign}pk")


@dataclass(frozen=True, slots=True)
class Place:
    """A row's position in the sort order."""

    rank: int
    value: int
    id: UUID

    def cursor(self, *, backwards: bool = False, at: int = 0) -> Cursor:
        return Cursor(self.rank, self.value, self.id, backwards, at)


def is_ranked(wanted: BoardFilter) -> bool:
    """Whether the streams of this order are read one after the other."""
    return wanted.sort in _RANKED


def is_read_descending(wanted: BoardFilter, cursor: Cursor | None) -> bool:
    """Whether rows are read in descending order: a backwards cursor reverses the board's own order."""
    return wanted.descending != (cursor is not None and cursor.backwards)


def streams(wanted: BoardFilter, now: datetime) -> tuple[Stream, ...]:
    """In descending order of rank."""
    column = _COLUMNS[wanted.sort]
    if wanted.sort is Sort.ACTIVE:
        ranks = {int(status in ACTIVE) for status in wanted.statuses} or {1, 0}
        return tuple(Stream(Q(rank=rank), column, rank) for rank in (1, 0) if rank in ranks)
    if wanted.sort is Sort.ATTENTION:
        return Worst(Q(attention__gt=0), column, rank=1), Stream(Q(attention=0), column)
    if wanted.sort is Sort.DURATION:
        running = Q(rank=1, run_finished_at=None, run_started_at__isnull=False)
        rest = Q(rank=0) | Q(run_started_at=None) | Q(run_finished_at__isnull=False)
        return (Stream(running, "run_started_at", since=now), Stream(rest, column))
    return (Stream(Q(), column),)
