"""What is wrong in any team, for auditors and site admins: the first part of their home page.

It costs a fixed number of queries, with one row a team and nothing of a single run.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Count, DateTimeField, Min, Q, Value
from django.urls import reverse
from django.utils import timezone

from taskruns.audit.anchors import unwritten_since
from taskruns.forms import BoardFilter
from taskruns.models import Credential, EmergencyStop, Heartbeat, Run, Status, Team
from taskruns.services import heartbeats
from taskruns.services.members import TeamSummary
from taskruns.services.stops import is_paused

from .board.page import LATE, worker_message
from .values import Link, Moment

FAILED_WITHIN = timedelta(hours=1)
LINKS = 5  # teams named in one line
ROWS = 100  # teams in the table; the others are only links


@dataclass(frozen=True, slots=True)
class Problem:
    """`links`: where it is, at most LINKS; `more`: how many further places."""

    tone: str
    text: str
    links: tuple[Link, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class TeamLine:
    """`read`: the last reading of the working key that was read longest ago. `stop`: empty, active or paused."""

    name: str
    url: str
    active: int
    failed: int
    failed_url: str
    keys: int
    failing: int
    keys_url: str
    stop: str
    stop_url: str
    read: Moment | None
    is_late: bool

    @property
    def is_troubled(self) -> bool:
        return bool(self.failing or self.failed or self.stop or self.is_late)


@dataclass(frozen=True, slots=True)
class Overview:
    problems: tuple[Problem, ...]
    teams: tuple[TeamLine, ...]
    others: tuple[Link, ...]


@dataclass(slots=True)
class _Found:
    """What the queries found, by team."""

    keys: dict[uuid.UUID, int] = field(default_factory=dict)
    failing: dict[uuid.UUID, int] = field(default_factory=dict)
    read: dict[uuid.UUID, datetime | None] = field(default_factory=dict)
    stops: dict[uuid.UUID, str] = field(default_factory=dict)
    failed: dict[uuid.UUID, int] = field(default_factory=dict)


def overview(summaries: Sequence[TeamSummary]) -> Overview:
    """`summaries`: all teams, by name. Those with a problem come first."""
    now = timezone.now()
    found = _found([it.team.pk for it in summaries], now)
    lines = sorted((_line(it, found, now) for it in summaries), key=lambda line: not line.is_troubled)
    others = tuple(Link(line.name, line.url) for line in lines[ROWS:])
    return Overview((*_of_site(), *_of_teams(lines)), tuple(lines[:ROWS]), others)


def _found(teams: Sequence[uuid.UUID], now: datetime) -> _Found:
    found = _Found()
    works = Q(failing_since=None)
    keys = Credential.objects.live().filter(team__in=teams).values("team").order_by()
    failing, read = Count("pk", filter=~works), Min("last_good_at", filter=works)
    for row in keys.annotate(keys=Count("pk"), failing=failing, read=read):
        team = row["team"]
        found.keys[team], found.failing[team], found.read[team] = row["keys"], row["failing"], row["read"]
    for stop in EmergencyStop.objects.holding(now).filter(team__in=teams).with_owner():
        found.stops[stop.team_id] = "paused" if is_paused(stop) else "active"
    # Like the board that the number leads to.
    failed = Run.objects.filter(team__in=teams, status=Status.FAILED, ended_at__gte=_failed_since(now))
    found.failed = dict(failed.values_list("team_id").annotate(Count("pk")).order_by())
    return found


def _line(it: TeamSummary, found: _Found, now: datetime) -> TeamLine:
    team, slug = it.team.pk, it.team.slug
    failed = BoardFilter(statuses=(Status.FAILED,), ended_after=_failed_since(now))
    read = found.read.get(team)
    return TeamLine(
        name=it.team.name,
        url=reverse("board", args=[slug]),
        active=it.active_runs,
        failed=found.failed.get(team, 0),
        failed_url=reverse("board", args=[slug]) + failed.query(),
        keys=found.keys.get(team, 0),
        failing=found.failing.get(team, 0),
        keys_url=reverse("credentials", args=[slug]),
        stop=found.stops.get(team, ""),
        stop_url=reverse("stop", args=[slug]),
        read=Moment.of(read),
        # Not a reading in the future: a clock that was set back has left it.
        is_late=read is not None and not now - LATE <= read <= now + LATE,
    )


def _failed_since(now: datetime) -> datetime:
    return now.replace(microsecond=0) - FAILED_WITHIN


def _of_site() -> tuple[Problem, ...]:
    """The worker, the queue, and the anchors of the audit log."""
    audit = Link("Site audit", reverse("site-audit"))
    since = Moment.of(unwritten_since())
    text = f"Since {since.text}, anchors of the audit log cannot be written to their file" if since else ""
    unseen = worker_message(Team.objects.annotate(**Heartbeat.annotations(_now())).order_by("pk")[:1])
    return (
        *([Problem(unseen.tone, unseen.text)] if unseen else []),
        *([Problem("error", text, (audit,))] if text else []),
    )


def _of_teams(lines: Sequence[TeamLine]) -> tuple[Problem, ...]:
    failing = [(line.failing, Link(line.name, line.keys_url)) for line in lines if line.failing]
    paused = [(1, Link(line.name, line.stop_url)) for line in lines if line.stop == "paused"]
    active = [(1, Link(line.name, line.stop_url)) for line in lines if line.stop == "active"]
    late = [(1, Link(line.name, line.url)) for line in lines if line.is_late]
    failed = [(line.failed, Link(line.name, line.failed_url)) for line in lines if line.failed]
    minutes = int(LATE.total_seconds() // 60)
    lost = "because the {} lost the right"
    found = (
        _problem("error", "Arize rejects 1 API key", "Arize rejects {} API keys", failing),
        _problem(
            "error",
            f"1 emergency stop is paused {lost.format('person who pulled it')}",
            f"{{}} emergency stops are paused {lost.format('people who pulled them')}",
            paused,
        ),
        _problem(
            "warning",
            f"1 team was not read from Arize in the last {minutes} minutes",
            f"{{}} teams were not read from Arize in the last {minutes} minutes",
            late,
        ),
        _problem("warning", "1 run failed in the last hour", "{} runs failed in the last hour", failed),
        _problem("info", "1 emergency stop is active", "{} emergency stops are active", active),
    )
    return tuple(problem for problem in found if problem)


def _problem(tone: str, one: str, many: str, places: Sequence[tuple[int, Link]]) -> Problem | None:
    total = sum(number for number, _ in places)
    if not total:
        return None
    links = tuple(link for _, link in places[:LINKS])
    return Problem(tone, one if total == 1 else many.format(f"{total:,}"), links, len(places) - len(links))


def _now() -> Value:
    return Value(heartbeats.database_now(), output_field=DateTimeField())
