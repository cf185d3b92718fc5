"""Runs per hour by outcome, as stacked bars. SVG coordinates: 24 bars, each 30 wide; 120 high."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache, lru_cache, reduce
from operator import or_
from typing import Any

from django.db.models import Count, DateTimeField, Func, IntegerField, Q, QuerySet, UUIDField, Value
from django.urls import reverse
from django.utils import timezone

from taskruns import __version__
from taskruns.forms import BoardFilter
from taskruns.models import Run, Status, Team
from taskruns.models.prepared import Compiled, Prepared, Slot
from taskruns.pages.values import Moment
from taskruns.services.runs.matching import conditions

SLOT, BAR, HEIGHT = 30, 22, 118
SMALLEST = 2.0  # so that one run is visible beside a thousand
LABEL_EVERY = 3  # hours

Counts = Mapping[tuple[datetime, Status], int]

# From bottom to top. The style sheet gives each its own fill: solid, hatched, hollow, striped, dashed.
OUTCOMES: dict[str, tuple[str, tuple[Status, ...]]] = {
    "completed": ("completed", (Status.COMPLETED,)),
    "failed": ("failed", (Status.FAILED,)),
    "cancelled": ("cancelled", (Status.CANCELLED,)),
    "active": ("still active", (Status.PENDING, Status.RUNNING)),
    "other": ("unknown or gone", (Status.UNKNOWN, Status.GONE)),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One outcome over all hours. `path` is empty if it does not occur."""

    kind: str
    word: str
    total: int
    path: str

    @property
    def is_hatched(self) -> bool:
        """Filled with an SVG pattern; the style sheet fills the others."""
        return self.kind in {"failed", "active"}


@dataclass(frozen=True, slots=True)
class Hour:
    """`label`: for example `03:00`. `counts`: in the order of the chart's series. `x`: the left edge of its slot.
    `url`: the board with the runs that were created in this hour.
    """

    label: str
    start: Moment | None
    counts: tuple[int, ...]
    total: int
    x: int
    tip: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """`labels`: below the bars, one every three hours. `zone`: the time zone of the hours. `subject`: which runs are
    counted. `url`: the chart, as page and as fragment.
    """

    team: str
    url: str
    board_url: str
    subject: str
    series: tuple[Series, ...]
    hours: tuple[Hour, ...]
    labels: tuple[str, ...]
    zone: str
    summary: str
    etag: str

    @property
    def is_empty(self) -> bool:
        return not self.series

    @property
    def hour_urls(self) -> str:
        """For the script, which follows the pointer."""
        return " ".join(hour.url for hour in self.hours)


def series_of(starts: Sequence[datetime], counts: Counts) -> tuple[Series, ...]:
    """The outcomes that occur, each stacked on those before it."""
    numbers = {kind: [_sum(start, statuses, counts) for start in starts] for kind, (_, statuses) in OUTCOMES.items()}
    heights = _heights(numbers, len(starts))
    tops = [0.0] * len(starts)
    found = []
    for kind, (word, _) in OUTCOMES.items():
        path = ""
        for slot, height in enumerate(heights[kind]):
            path += _segment(slot, tops[slot], height)
            tops[slot] += height
        if any(numbers[kind]):
            found.append(Series(kind, word, sum(numbers[kind]), path))
    return tuple(found)


def hours_of(starts: Sequence[datetime], counts: Counts, series: Sequence[Series]) -> tuple[Hour, ...]:
    return tuple(_hour(slot, start, counts, series) for slot, start in enumerate(starts))


def summary_of(series: Sequence[Series], hours: Sequence[Hour]) -> str:
    """`Last 24 hours: 2,304 completed, 576 failed. Most in one hour: 120, from 03:00.`"""
    if not series:
        return "No runs in the last 24 hours."
    busiest = max(hours, key=lambda hour: hour.total)
    totals = ", ".join(f"{one.total:,} {one.word}" for one in series)
    return f"Last 24 hours: {totals}. Most in one hour: {busiest.total:,}, from {busiest.label}."


def _hour(slot: int, start: datetime, counts: Counts, series: Sequence[Series]) -> Hour:
    moment = Moment.of(start)
    label = moment.text[11:16] if moment else ""
    numbers = tuple(_sum(start, OUTCOMES[one.kind][1], counts) for one in series)
    parts = [f"{number:,} {one.word}" for number, one in zip(numbers, series, strict=True) if number]
    return Hour(label, moment, numbers, sum(numbers), slot * SLOT, f"{label}: {', '.join(parts) or 'no runs'}")


def _sum(start: datetime, statuses: Sequence[Status], counts: Counts) -> int:
    return sum(counts.get((start, status), 0) for status in statuses)


def _heights(numbers: dict[str, list[int]], slots: int) -> dict[str, list[float]]:
    most = max((sum(row[slot] for row in numbers.values()) for slot in range(slots)), default=0) or 1
    raw = {kind: [max(SMALLEST, HEIGHT * n / most) if n else 0.0 for n in row] for kind, row in numbers.items()}
    # Enlarging small parts may have made a bar higher than the drawing.
    highest = max((sum(row[slot] for row in raw.values()) for slot in range(slots)), default=0.0)
    shrink = min(1.0, HEIGHT / highest) if highest else 1.0
    return {kind: [height * shrink for height in row] for kind, row in raw.items()}


def _segment(slot: int, below: float, height: float) -> str:
    left = slot * SLOT + (SLOT - BAR) // 2
    return f"M{left} {HEIGHT + 1 - below:.1f}v-{height:.1f}h{BAR}v{height:.1f}z" if height else ""


HOURS = 24


def runs_per_hour(*teams: Team, wanted: BoardFilter | None = None, of_all: bool = False) -> Chart:
    """The last 24 hours in the person's time zone, the current one last. A run counts in the hour of its creation."""
    starts, wanted = _starts(), (wanted or BoardFilter()).unsorted()
    counted = wanted if _is_followed(wanted) else BoardFilter()
    board_url = reverse("teams") if of_all else reverse("board", args=[teams[0].slug])
    counts = _counts(teams, tuple(team.board_version for team in teams), counted, tuple(starts))
    series, hours = _drawn(counts, board_url, counted, tuple(starts), timezone.get_current_timezone())
    return Chart(
        team="all your teams" if of_all else teams[0].name,
        url=(reverse("teams-chart") if of_all else reverse("board-chart", args=[teams[0].slug])) + wanted.query(),
        board_url=board_url,
        subject="filtered runs" if counted.is_set else "all runs",
        series=series,
        hours=hours,
        labels=tuple(hour.label for hour in hours[::LABEL_EVERY]),
        zone=timezone.get_current_timezone_name(),
        summary=summary_of(series, hours),
        etag=_etag(teams, wanted, starts),
    )


def _is_followed(wanted: BoardFilter) -> bool:
    """Whether counting the runs of a day that match is cheap. A search is not, and a window of time is of no use."""
    times = (wanted.started_after, wanted.started_before, wanted.ended_after, wanted.ended_before)
    is_timed = any((*times, wanted.created_after, wanted.created_before)) or wanted.min_duration is not None
    return not (wanted.q or wanted.started_by or wanted.cancelled_by or is_timed)


# The same until a run is created or ends, or the hour is over.
@lru_cache(maxsize=256)
def _drawn(
    counted: frozenset[tuple[tuple[datetime, Status], int]],
    board_url: str,
    wanted: BoardFilter,
    starts: tuple[datetime, ...],
    _zone: tzinfo,
) -> tuple[tuple[Series, ...], tuple[Hour, ...]]:
    """Each hour leads to the board with its runs."""
    counts = dict(counted)
    series = series_of(starts, counts)
    each = (replace(wanted, created_after=at, created_before=at + timedelta(hours=1)) for at in starts)
    urls = [board_url + within.query() for within in each]
    return series, tuple(
        replace(hour, url=url) for hour, url in zip(hours_of(starts, counts, series), urls, strict=True)
    )


def chart_etag(*teams: Team, wanted: BoardFilter | None = None) -> str:
    """Changes with the board's data and with the hour."""
    return _etag(teams, (wanted or BoardFilter()).unsorted(), _starts())


def _etag(teams: Sequence[Team], wanted: BoardFilter, starts: Sequence[datetime]) -> str:
    data = sorted((str(team.pk), team.name, team.board_version) for team in teams)
    parts = (data, wanted.query(), starts[-1], timezone.get_current_timezone_name(), __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _starts() -> list[datetime]:
    """Oldest first, in UTC: subtracting in UTC gives 24 real hours even on the day the clocks change."""
    current = timezone.localtime().replace(minute=0, second=0, microsecond=0).astimezone(UTC)
    return [current - timedelta(hours=back) for back in reversed(range(HOURS))]


# The same until the board changes, or the hour is over, as the ETag says.
@lru_cache(maxsize=256)
def _counts(
    teams: tuple[Team, ...], _versions: tuple[int, ...], wanted: BoardFilter, starts: tuple[datetime, ...]
) -> frozenset[tuple[tuple[datetime, Status], int]]:
    rows: Iterable[tuple[int, str, int]]
    if len(teams) == 1 and not wanted.is_set:
        rows = _of_one_team().rows(team=teams[0].pk, start=starts[0])
    else:
        where = Q(team__in=teams)
        if wanted.is_set and teams:
            where &= reduce(or_, (_where(team, wanted) for team in teams))
        rows = _filtered(where, starts[0]).rows()
    counts: dict[tuple[datetime, Status], int] = {}
    for hour, status, runs in rows:
        # A run from the future counts in the current hour.
        at = starts[min(hour, HOURS - 1)], Status(status)
        counts[at] = counts.get(at, 0) + runs
    return frozenset(counts.items())


@cache
def _of_one_team() -> Prepared[tuple[int, str, int]]:
    """All runs of a team."""
    return Prepared(_by_hour(Q(team=Slot("team", UUIDField())), Slot("start", DateTimeField())))


# The same until the hour is over.
@lru_cache(maxsize=256)
def _filtered(where: Q, start: datetime) -> Compiled[tuple[int, str, int]]:
    return Compiled(_by_hour(where, Value(start, DateTimeField())))


def _by_hour(where: Q, start: Value) -> QuerySet[Run, tuple[int, str, int]]:
    """The number of the hour, the status, and how many runs."""
    # All statuses and ranks are listed explicitly, so that the query seeks each part of the index to the last day.
    day = Run.objects.filter(where, status__in=Status.values, rank__in=(0, 1), sorted_at__gte=start)
    rows = day.order_by().annotate(hour=_HoursSince("sorted_at", start))
    return rows.values_list("hour", "status").annotate(runs=Count("pk"))


class _HoursSince(Func):
    """How many whole hours a time is after another."""

    output_field = IntegerField()
    arity = 2

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # A percent sign is doubled for the parameters of the query, and once more in a template.
        template = "((CAST(strftime('%%%%s', %(expressions)s) AS integer)) / 3600)"
        joiner = ") AS integer) - CAST(strftime('%%s', "
        return self.as_sql(compiler, connection, template=template, arg_joiner=joiner, **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "CAST(floor(extract(epoch FROM %(expressions)s) / 3600) AS integer)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" - ", **extra)


def _where(team: Team, wanted: BoardFilter) -> Q:
    """What a scan checks: one day's runs are few enough."""
    found = conditions(team, wanted, now=timezone.now())
    return found.indexed if found.rest is None else found.indexed & found.rest
