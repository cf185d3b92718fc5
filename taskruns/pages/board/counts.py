"""The numbers above a board: how many runs each status and flag has now, and which of how many runs a page shows.

Each count reads an index and stops at its cap: MOST for a status or flag, EXACT for a listing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import Count as NumberOf
from django.db.models import DateTimeField, IntegerField, Min, Q, Subquery, UUIDField
from django.utils import timezone

from taskruns.forms import BoardFilter, Cursor, Flag
from taskruns.models import Run, Status, Team
from taskruns.models.prepared import Prepared, Slot
from taskruns.models.runs import ACTIVE, LATELY
from taskruns.permissions import TeamAccess
from taskruns.services.runs.retention import ENDED

from .keyset import count, count_all

if TYPE_CHECKING:
    from .page import Listing

Begins = tuple[datetime | None, ...]
MOST = 10_000
EXACT = 1_000


@dataclass(frozen=True, slots=True)
class Count:
    """`is_capped`: there are more."""

    number: int
    is_capped: bool = False

    @property
    def text(self) -> str:
        """`1,234`, or `10,000+`."""
        return f"{self.number:,}{'+' if self.is_capped else ''}"


def sum_of(counts: Iterable[Count]) -> Count:
    each = list(counts)
    return Count(sum(count.number for count in each), is_capped=any(count.is_capped for count in each))


@dataclass(frozen=True, slots=True)
class BoardCounts:
    """Active runs, and those that ended in the last 24 hours, of the whole board whatever the filter.

    `begins`: of each ended status the oldest run that is counted: while these stay, time alone changes no count.
    """

    statuses: Mapping[Status, Count]
    flags: Mapping[Flag, Count]
    begins: Begins = ()


@dataclass(frozen=True, slots=True)
class Total:
    """`number`: runs in the listing; there are more if `is_capped`. `first` and `last`: the positions of the page's
    rows, None if it is too far down to say.
    """

    number: int
    is_capped: bool = False
    first: int | None = None
    last: int | None = None

    @property
    def text(self) -> str:
        """`51-100 of 262`, `1-50 of more than 1,000`, or `more than 1,000`. Empty without a run."""
        of = f"{'more than ' if self.is_capped else ''}{self.number:,}"
        if not self.first or not self.last:
            return of if self.is_capped else ""
        rows = f"{self.first:,}" if self.first == self.last else f"{self.first:,}-{self.last:,}"
        return f"{rows} of {of}"


def board_counts(accesses: Iterable[TeamAccess]) -> BoardCounts:
    """The counts of all these teams together. One query for one team, else two."""
    since, teams = timezone.now() - LATELY, [it.team.pk for it in accesses]
    numbers, begins = _counted_of_one(teams[0], since) if len(teams) == 1 else _counted_together(teams, since)
    each: dict[Status | Flag, int] = {}
    for (kind, _), number in zip(_parts(Q(), since), numbers, strict=True):
        each[kind] = each.get(kind, 0) + number
    counts = {kind: Count(min(number, MOST), number > MOST) for kind, number in each.items()}
    return BoardCounts({status: counts[status] for status in Status}, {flag: counts[flag] for flag in Flag}, begins)


def total(listing: "Listing", wanted: BoardFilter) -> Total:
    """Which of how many runs the page shows. No query if the page is the whole listing."""
    rows = len(listing.runs)
    before, has_more_before = _beyond(listing, wanted, listing.previous)
    whole = None if listing.is_whole else count_all(listing.asked, limit=EXACT + 1)
    after, has_more_after = (0, False) if whole is not None else _beyond(listing, wanted, listing.following)
    number = before + rows + after if whole is None else whole
    is_capped = number > EXACT or (whole is None and (has_more_before or has_more_after))
    if has_more_before or not rows:
        return Total(min(number, EXACT), is_capped)
    return Total(min(number, EXACT), is_capped, before + 1, before + rows)


def _beyond(listing: "Listing", wanted: BoardFilter, cursor: Cursor | None) -> tuple[int, bool]:
    """The number of runs before the page, or after it, and whether there are more than that."""
    if cursor is None:
        return 0, False
    return count(listing.asked, wanted, cursor, limit=EXACT + 1, now=listing.now)


class _NumberIn(Subquery):
    """How many rows a query finds. A sliced query counts no further than its slice."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()


def _counted_of_one(team: UUID, since: datetime) -> tuple[Sequence[int], Begins]:
    (found,) = _counted().rows(team=team, since=since)
    return found[: -len(ENDED)], found[-len(ENDED) :]


@cache
def _counted() -> Prepared[tuple[Any, ...]]:
    """The number of each part, then the begins."""
    of_team, since = Q(team=Slot("team", UUIDField())), Slot("since", DateTimeField())
    # Of a column that each index has, so that no row is looked up in the table.
    numbers = [
        _NumberIn(Run.objects.filter(where).order_by().values("team")[: MOST + 1])
        for _, where in _parts(of_team, since)
    ]
    ended = Run.objects.filter(of_team, ended_at__gte=since).order_by("ended_at").values("ended_at")
    begins = [Subquery(ended.filter(status=it)[:1], output_field=DateTimeField(null=True)) for it in ENDED]
    each: dict[str, Any] = {f"part_{number}": it for number, it in enumerate([*numbers, *begins])}
    return Prepared(Team.objects.filter(pk=Slot("team", UUIDField())).annotate(**each).values_list(*each))


def _counted_together(teams: Sequence[UUID], since: datetime) -> tuple[Sequence[int], Begins]:
    """Without a cap: one scan of the active runs and the last 24 hours of all these teams."""
    lately = Q(rank=1) | Q(ended_at__gte=since) | Q(attention__gt=0) | Q(status=Status.UNKNOWN)
    parts = {f"part_{number}": NumberOf("pk", filter=where) for number, (_, where) in enumerate(_parts(Q(), since))}
    numbers = tuple(Run.objects.filter(lately, team__in=teams).aggregate(**parts).values())
    ended = Run.objects.filter(team__in=teams, status__in=ENDED, ended_at__gte=since).order_by("team", "status")
    begins = ended.values_list("team", "status").annotate(begin=Min("ended_at")).values_list("begin", flat=True)
    return numbers, tuple(begins)


def _parts(of_team: Q, since: Any) -> Sequence[tuple[Status | Flag, Q]]:
    """What is counted. The numbers of several parts of one kind are added."""
    parts: list[tuple[Status | Flag, Q]] = [(it, of_team & Q(status=it, rank=1)) for it in ACTIVE]
    parts += [(it, of_team & Q(status=it, ended_at__gte=since)) for it in ENDED]
    parts += [(Status.UNKNOWN, of_team & Q(status=Status.UNKNOWN, rank=0))]
    for flag in (Flag.WITH_ERRORS, Flag.LONGER_THAN_USUAL):
        parts += [
            (flag, of_team & Q((flag.value, True), rank=1)),
            (flag, of_team & Q((flag.value, True), ended_at__gte=since)),
        ]
    parts += [(flag, of_team & Q((flag.value, True), rank=1)) for flag in (Flag.PENDING_LONG, Flag.CANCEL_OPEN)]
    return [*parts, (Flag.ATTENTION, of_team & Q(attention__gt=0))]
