"""What a stop would hit, or hits: read from the mirror."""

import uuid
from collections.abc import Collection, Iterable

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.display.credentials import health
from taskruns.display.stops import StopBanner, StopBatch, StopPage, StopTask, keys_of, stop_batch, stop_task
from taskruns.display.words import Message
from taskruns.models import CancelBatch, CancelItem, Credential, EmergencyStop, ItemState, Run, Status, Task, Team

MOST_OTHERS = 200
MOST_BATCHES = 20


def stop_page(team: Team, *, banner: StopBanner | None, may_pull: bool, left_out: Collection[str] = ()) -> StopPage:
    """`left_out`: ids of tasks as they were ticked, for a form that comes back; of a stop that holds its own count."""
    stop = EmergencyStop.objects.holding().select_related("team").filter(team=team).first() if banner else None
    chosen = set(stop.left_out if stop else left_out)
    active = Run.objects.filter(task=OuterRef("pk"), rank=1)
    tasks = Task.objects.filter(team=team).select_related("credential").annotate(is_active=Exists(active))
    hit = _rows(team, tasks.filter(is_active=True).order_by("name", "pk"), _active_counts(team), chosen)
    idle = tasks.filter(is_active=False).order_by(F("last_run_at").desc(nulls_last=True), "pk")
    # Those that were left out are never among the hidden ones.
    shown = _rows(team, _first(idle, chosen), {}, chosen)
    ended = _tally(stop) if stop else {}
    return StopPage(
        team=team.name,
        url=reverse("stop", args=[team.slug]),
        board_url=reverse("board", args=[team.slug]),
        tasks=hit,
        others=shown,
        hidden=max(0, idle.count() - len(shown)),
        keys=keys_of([task for task in hit if not task.is_left_out]),
        warnings=_warnings(hit),
        banner=banner,
        may_pull=may_pull and banner is None,
        tally=tuple((state.label.lower(), runs) for state, runs in ended.items()),
        batches=_batches(stop) if stop else (),
        unsent=ended.get(ItemState.QUEUED, 0),
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
    return tuple(
        stop_task(
            task,
            slug=team.slug,
            counts=counts.get(task.pk, (0, 0)),
            is_left_out=str(task.pk) in chosen,
            trouble=_trouble(task.credential),
        )
        for task in tasks
    )


def _trouble(key: Credential | None) -> str:
    """Why no cancel can be sent for a task."""
    if key is None or key.revoked_at is not None:
        return "no key reads it: it cannot be stopped from here"
    state, text = health(key, timezone.now())
    return text if state == "failing" else ""


def _warnings(hit: Iterable[StopTask]) -> tuple[Message, ...]:
    beyond = sum(bool(task.trouble) and not task.is_left_out for task in hit)
    if not beyond:
        return ()
    text = f"{beyond} of these tasks cannot be reached with a working key. Their runs may go on."
    return (Message("warning", text),)


def _batches(stop: EmergencyStop) -> tuple[StopBatch, ...]:
    rows = CancelBatch.objects.filter(stop=stop).annotate(runs=Count("items")).order_by("-created_at")[:MOST_BATCHES]
    return tuple(stop_batch(row, slug=stop.team.slug, runs=row.runs) for row in rows)


def _tally(stop: EmergencyStop) -> dict[ItemState, int]:
    """How many of its cancels are how far, most first."""
    rows = CancelItem.objects.filter(batch__stop=stop).values_list("state").annotate(runs=Count("pk"))
    return {ItemState(state): runs for state, runs in rows.order_by("-runs", "state")}
