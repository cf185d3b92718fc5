"""Runs per hour by outcome, as stacked bars. SVG coordinates: 24 bars, each 30 wide; 120 high."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Case, Count, IntegerField, When
from django.urls import reverse
from django.utils import timezone

from taskruns import __version__
from taskruns.models import Run, Status, Team
from taskruns.pages.values import Moment

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
    """`label`: for example `03:00`. `counts`: in the order of the chart's series. `x`: the left edge of its slot."""

    label: str
    start: Moment | None
    counts: tuple[int, ...]
    total: int
    x: int
    tip: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`labels`: below the bars, one every three hours. `zone`: the time zone of the hours."""

    team: str
    url: str
    board_url: str
    series: tuple[Series, ...]
    hours: tuple[Hour, ...]
    labels: tuple[str, ...]
    zone: str
    summary: str
    etag: str

    @property
    def is_empty(self) -> bool:
        return not self.series


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


def runs_per_hour(team: Team) -> Chart:
    """The last 24 hours in the person's time zone, the current one last. A run counts in the hour of its creation."""
    starts = _starts()
    counts = _counts(team, starts)
    series = series_of(starts, counts)
    hours = hours_of(starts, counts, series)
    return Chart(
        team=team.name,
        url=reverse("board-chart", args=[team.slug]),
        board_url=reverse("board", args=[team.slug]),
        series=series,
        hours=hours,
        labels=tuple(hour.label for hour in hours[::LABEL_EVERY]),
        zone=timezone.get_current_timezone_name(),
        summary=summary_of(series, hours),
        etag=_etag(team, starts),
    )


def chart_etag(team: Team) -> str:
    """Changes with the board's data and with the hour."""
    return _etag(team, _starts())


def _etag(team: Team, starts: Sequence[datetime]) -> str:
    parts = (str(team.pk), team.name, team.board_version, starts[-1], timezone.get_current_timezone_name(), __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _starts() -> list[datetime]:
    """Oldest first, in UTC: subtracting in UTC gives 24 real hours even on the day the clocks change."""
    current = timezone.localtime().replace(minute=0, second=0, microsecond=0).astimezone(UTC)
    return [current - timedelta(hours=back) for back in reversed(range(HOURS))]


def _counts(team: Team, starts: Sequence[datetime]) -> Counts:
    """All statuses and ranks are listed explicitly, so that the query seeks each part of the index to the last day."""
    slots = list(enumerate(starts))
    hour = Case(
        *[When(sorted_at__gte=start, then=slot) for slot, start in reversed(slots)], output_field=IntegerField()
    )
    day = Run.objects.filter(team=team, status__in=Status.values, rank__in=(0, 1), sorted_at__gte=starts[0])
    rows = day.order_by().annotate(hour=hour).values_list("hour", "status").annotate(runs=Count("pk"))
    return {(starts[slot], Status(status)): runs for slot, status, runs in rows}
