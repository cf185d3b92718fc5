"""Runs per hour by outcome over the last 24 hours of a team, in one query over that day."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.db.models import Case, Count, IntegerField, When
from django.urls import reverse
from django.utils import timezone

from taskruns import __version__
from taskruns.display.chart import LABEL_EVERY, Chart, Counts, hours_of, series_of, summary_of
from taskruns.models import Run, Status, Team

HOURS = 24


def runs_per_hour(team: Team) -> Chart:
    """The hours of the person's clock, the current one last. A run counts in the hour in which it was created."""
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
    """Changes with what the board can show, and with the hour."""
    return _etag(team, _starts())


def _etag(team: Team, starts: Sequence[datetime]) -> str:
    parts = (str(team.pk), team.name, team.board_version, starts[-1], timezone.get_current_timezone_name(), __version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _starts() -> list[datetime]:
    """Oldest first, in UTC. Stepping back in UTC gives 24 real hours on the day the clocks change, too."""
    current = timezone.localtime().replace(minute=0, second=0, microsecond=0).astimezone(UTC)
    return [current - timedelta(hours=back) for back in reversed(range(HOURS))]


def _counts(team: Team, starts: Sequence[datetime]) -> Counts:
    """Status and rank are spelled out, so that every part of the index on them is entered at its last day."""
    slots = list(enumerate(starts))
    hour = Case(
        *[When(sorted_at__gte=start, then=slot) for slot, start in reversed(slots)], output_field=IntegerField()
    )
    day = Run.objects.filter(team=team, status__in=Status.values, rank__in=(0, 1), sorted_at__gte=starts[0])
    rows = day.order_by().annotate(hour=hour).values_list("hour", "status").annotate(runs=Count("pk"))
    return {(starts[slot], Status(status)): runs for slot, status, runs in rows}
