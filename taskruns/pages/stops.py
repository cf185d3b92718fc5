"""Display models of the emergency stop: the banner on every page of its team, and its own page."""

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.models import (
    CancelBatch,
    CancelItem,
    Credential,
    Effect,
    EmergencyStop,
    ItemState,
    Run,
    Status,
    Task,
    Team,
    User,
)
from taskruns.permissions import Access
from taskruns.services.stops import active_stop, is_paused, may_lift

from .batch_words import StateCount, number_of, state_counts, unfinished
from .credentials import health
from .values import Message, Moment, who_of

MOST_OTHERS = 200  # tasks without active runs that are listed
MOST_BATCHES = 20


@dataclass(frozen=True, slots=True)
class StopBanner:
    """Who pulled the stop, and why. `paused`: why it has no effect now. `lift_url`: for people who may lift it."""

    who: str
    reason: str
    since: Moment | None
    until: Moment | None
    paused: str
    left_out: int
    url: str
    lift_url: str


@dataclass(frozen=True, slots=True)
class StopTask:
    """A task that the stop affects. `key`: the key that sends the cancels; `trouble`: why it cannot."""

    id: str
    name: str
    url: str
    type: str
    space: str
    key: str
    trouble: str
    pending: int
    running: int
    is_left_out: bool

    @property
    def active(self) -> int:
        return self.pending + self.running


@dataclass(frozen=True, slots=True)
class StopBatch:
    """One batch that the stop started."""

    url: str
    runs: int
    at: Moment | None


@dataclass(frozen=True, slots=True)
class StopProgress:
    """What an active stop has done so far. Each run counts once, with its latest cancel.

    `ends`: in words. `unsent`: the number of queued cancels. `is_working`: some runs have no outcome yet.
    """

    url: str
    sentence: str
    total: int
    done: int
    counts: tuple[StateCount, ...]
    batches: tuple[StopBatch, ...]
    who: str
    since: Moment | None
    ends: str
    unsent: int

    @property
    def is_working(self) -> bool:
        return self.done < self.total


@dataclass(frozen=True, slots=True)
class StopPage:
    """`tasks` have active runs; `others` have none, and `hidden` of them are not listed. `banner`: of an active stop.

    `may_pull`: show the form.
    """

    team: str
    url: str
    board_url: str
    tasks: tuple[StopTask, ...]
    others: tuple[StopTask, ...]
    hidden: int
    keys: tuple[str, ...]
    warnings: tuple[Message, ...]
    banner: StopBanner | None
    may_pull: bool
    progress: "StopProgress | None" = None

    @property
    def runs(self) -> int:
        """The number of active runs that the stop cancels."""
        return sum(task.active for task in self.tasks if not task.is_left_out)

    @property
    def others_total(self) -> int:
        return len(self.others) + self.hidden

    @property
    def hit(self) -> int:
        return sum(not task.is_left_out for task in self.tasks)


def banner_of(team: Team, *, person: User, access: Access) -> StopBanner | None:
    """The banner on every page of the team while a stop is active."""
    stop = active_stop(team)
    if stop is None:
        return None
    return StopBanner(
        who=who_of(stop),
        reason=stop.reason,
        since=Moment.of(stop.pulled_at),
        until=Moment.of(stop.expires_at),
        paused=_why_paused(stop) if is_paused(stop) else "",
        left_out=len(stop.left_out),
        url=reverse("stop", args=[team.slug]),
        lift_url=reverse("stop-lift", args=[team.slug]) if may_lift(stop, person=person, access=access) else "",
    )


def stop_page(team: Team, *, banner: StopBanner | None, may_pull: bool, left_out: Collection[str] = ()) -> StopPage:
    """`left_out`: the task ids selected in a rejected form. An active stop has its own."""
    stop = _holding(team) if banner else None
    chosen = set(stop.left_out if stop else left_out)
    active = Run.objects.filter(task=OuterRef("pk"), rank=1)
    tasks = Task.objects.filter(team=team).select_related("credential").annotate(is_active=Exists(active))
    hit = _rows(team, tasks.filter(is_active=True).order_by("name", "pk"), _active_counts(team), chosen)
    idle = tasks.filter(is_active=False).order_by(F("last_run_at").desc(nulls_last=True), "pk")
    # Excluded tasks are never hidden.
    shown = _rows(team, _first(idle, chosen), {}, chosen)
    return StopPage(
        team=team.name,
        url=reverse("stop", args=[team.slug]),
        board_url=reverse("board", args=[team.slug]),
        tasks=hit,
        others=shown,
        hidden=max(0, idle.count() - len(shown)),
        keys=tuple(sorted({task.key for task in hit if task.key and not task.is_left_out})),
        warnings=_warnings(hit),
        banner=banner,
        may_pull=may_pull and banner is None,
        progress=_progress(stop) if stop else None,
    )


def _holding(team: Team) -> EmergencyStop | None:
    return EmergencyStop.objects.holding().select_related("team", "person").filter(team=team).first()


def _progress(stop: EmergencyStop) -> StopProgress:
    states = _states(stop)
    total = sum(states.values())
    return StopProgress(
        url=reverse("stop", args=[stop.team.slug]),
        sentence=_sentence(states),
        total=total,
        done=total - unfinished(states),
        counts=state_counts(states),
        batches=_batches(stop),
        who=who_of(stop),
        since=Moment.of(stop.pulled_at),
        ends=until_words(stop.expires_at),
        unsent=states.get(ItemState.QUEUED, 0),
    )


def _sentence(states: Mapping[str, int]) -> str:
    if not states:
        return "Nothing to cancel so far. New runs are cancelled as soon as they appear."
    total, going = sum(states.values()), unfinished(states)
    stopped, ended = (number_of(states, effect) for effect in (Effect.STOPPED, Effect.ENDED))
    first = f", {ended:,} finished first" if ended else ""
    return f"{stopped:,} cancelled, {going:,} in progress, {total - going - stopped - ended:,} not stopped{first}."


def until_words(at: datetime) -> str:
    """Like "tomorrow at 18:46 UTC", in the person's time zone."""
    here, now = timezone.localtime(at), timezone.localtime()
    days = (here.date() - now.date()).days
    day = {0: "today", 1: "tomorrow"}.get(days, f"on {here:%Y-%m-%d}")
    moment = Moment.of(at)
    zone = moment.text.rsplit(" ", 1)[-1] if moment is not None else ""
    return f"{day} at {here:%H:%M} {zone}"


def _why_paused(stop: EmergencyStop) -> str:
    return (
        f"The stop is paused: {who_of(stop)} may no longer stop runs in this team, so new runs are not cancelled. "
        "It resumes if they regain the right. A manager can lift it so that someone else can pull a new one."
    )


def _first(idle: QuerySet[Task], chosen: Collection[str]) -> list[Task]:
    mine = list(idle.filter(pk__in=list(chosen)))
    return mine + list(idle.exclude(pk__in=list(chosen))[: max(0, MOST_OTHERS - len(mine))])


def _active_counts(team: Team) -> dict[uuid.UUID, tuple[int, int]]:
    pending, running = Q(status=Status.PENDING), Q(status=Status.RUNNING)
    rows = Run.objects.filter(team=team, rank=1).values_list("task").order_by()
    counted = rows.annotate(pending=Count("pk", filter=pending), running=Count("pk", filter=running))
    return {task: (waiting, going) for task, waiting, going in counted}


def _rows(
    team: Team, tasks: Iterable[Task], counts: dict[uuid.UUID, tuple[int, int]], chosen: Collection[str]
) -> tuple[StopTask, ...]:
    return tuple(_row(task, team.slug, counts.get(task.pk, (0, 0)), chosen) for task in tasks)


def _row(task: Task, slug: str, counts: tuple[int, int], chosen: Collection[str]) -> StopTask:
    """`counts`: pending and running."""
    pending, running = counts
    return StopTask(
        id=str(task.pk),
        name=str(task),
        url=f"{reverse('board', args=[slug])}?{urlencode({'task': task.arize_id})}",
        type=task.type.replace("_", " "),
        space=task.space_name,
        key=task.credential.name if task.credential else "",
        trouble=_trouble(task.credential),
        pending=pending,
        running=running,
        is_left_out=str(task.pk) in chosen,
    )


def _trouble(key: Credential | None) -> str:
    """Why no cancel can be sent for a task."""
    if key is None or key.revoked_at is not None:
        return "no API key reads it, so it cannot be stopped from here"
    state, text = health(key, timezone.now())
    return text if state == "failing" else ""


def _warnings(hit: Iterable[StopTask]) -> tuple[Message, ...]:
    beyond = sum(bool(task.trouble) and not task.is_left_out for task in hit)
    if not beyond:
        return ()
    text = f"{beyond} of these tasks cannot be reached with a working key. Their runs may keep running."
    return (Message("warning", text),)


def _batches(stop: EmergencyStop) -> tuple[StopBatch, ...]:
    rows = CancelBatch.objects.filter(stop=stop).annotate(runs=Count("items")).order_by("-created_at")[:MOST_BATCHES]
    return tuple(
        StopBatch(reverse("batch", args=[stop.team.slug, row.pk]), row.runs, Moment.of(row.created_at)) for row in rows
    )


def _states(stop: EmergencyStop) -> dict[str, int]:
    """State -> number of runs. A run that was cancelled several times has the state of its latest cancel."""
    items = CancelItem.objects.filter(batch__stop=stop)
    latest = items.filter(~Exists(items.filter(run=OuterRef("run"), pk__gt=OuterRef("pk"))))
    return dict(latest.values_list("state").annotate(runs=Count("pk")).order_by("state"))
