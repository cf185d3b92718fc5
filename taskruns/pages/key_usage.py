"""How many calls each API key made in the last 24 hours, as a small chart with its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from taskruns.models import Credential, KeyUsage

from .values import Moment

HOURS = 24
# One bar per hour, in SVG units.
SLOT, BAR, HEIGHT, MARK = 8, 6, 24, 5
SMALLEST = 1.5  # so that one call is visible beside thousands


@dataclass(frozen=True, slots=True)
class Usage:
    """`path` draws a bar for the calls of each hour, `limited_path` a mark above each hour with a 429 answer."""

    numbers: str
    path: str
    limited_path: str
    summary: str
    width: int = HOURS * SLOT
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class _Hour:
    calls: int = 0
    limited: int = 0


def usage_by_key(keys: Sequence[Credential]) -> dict[Credential, Usage]:
    """The last 24 hours of each key, including the current hour. One query."""
    this_hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    starts = [this_hour - timedelta(hours=back) for back in reversed(range(HOURS))]
    rows = KeyUsage.objects.filter(credential__in=keys, hour__gte=starts[0])
    counts = {(row.credential_id, row.hour): _Hour(row.calls, row.limited) for row in rows}
    return {key: _usage(starts, [counts.get((key.pk, start), _Hour()) for start in starts]) for key in keys}


def _usage(starts: Sequence[datetime], hours: Sequence[_Hour]) -> Usage:
    day, limited = sum(hour.calls for hour in hours), sum(hour.limited for hour in hours)
    most = max((hour.calls for hour in hours), default=0)
    heights = [max(SMALLEST, (HEIGHT - MARK - 1) * hour.calls / most) if hour.calls else 0.0 for hour in hours]
    return Usage(
        numbers=_numbers(hours[-1], day, limited),
        path="".join(_bar(slot, height) for slot, height in enumerate(heights) if height),
        limited_path="".join(_mark(slot, heights[slot]) for slot, hour in enumerate(hours) if hour.limited),
        summary=_summary(starts, hours, day, limited),
    )


def _numbers(now: _Hour, day: int, limited: int) -> str:
    """`2,304 in 24 h, 120 this hour; 12 answered 429, 3 this hour`"""
    refused = f"; {limited:,} answered 429" if limited else ""
    refused += f", {now.limited:,} this hour" if now.limited else ""
    return f"{day:,} in 24 h, {now.calls:,} this hour{refused}"


def _summary(starts: Sequence[datetime], hours: Sequence[_Hour], day: int, limited: int) -> str:
    """`Last 24 hours: 2,304 calls, 12 of them answered 429. Most in one hour: 180, from 03:00.`"""
    if not day:
        return "No calls in the last 24 hours."
    busiest = max(range(len(hours)), key=lambda slot: hours[slot].calls)
    moment = Moment.of(starts[busiest])
    refused = f", {limited:,} of them answered 429" if limited else ""
    since = moment.text[11:16] if moment else ""
    calls = f"{day:,} call{'' if day == 1 else 's'}"
    return f"Last 24 hours: {calls}{refused}. Most in one hour: {hours[busiest].calls:,}, from {since}."


def _bar(slot: int, height: float) -> str:
    left = slot * SLOT + (SLOT - BAR) // 2
    return f"M{left} {HEIGHT}v-{height:.1f}h{BAR}v{height:.1f}z"


def _mark(slot: int, height: float) -> str:
    """A small triangle above the bar: a shape, not a colour alone."""
    left, top = slot * SLOT + (SLOT - BAR) // 2, HEIGHT - height - MARK - 0.5
    return f"M{left} {top:.1f}h{BAR}l-{BAR / 2:g} {MARK}z"
