"""The list that a person confirms: each run of a draft, the filter in words, and what is not in the list, by reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl

from django.db.models import Count, Q, QuerySet
from django.urls import reverse

from taskruns.models import BatchKind, CancelBatch, CancelItem, Credential, EmergencyStop, ItemState, Run, Status, Task
from taskruns.models.batches import NOT_STARTABLE
from taskruns.services.batches import is_experiment, window_of

from .batch_words import START_WORDS, counted, words_of
from .board.chips import FLAG_WORDS
from .values import Message, Moment, StatusMark, shortened, status_mark, told_apart, who_of

MOST_TASKS = 200
LISTED = 100  # runs on one page of the list
MOST_EXCLUDED = 50  # runs named for each reason
_LABELS = {
    "q": "search",
    "credential": "API key",
    "flag": "only",
    "not_task": "not task",
    "min_duration": "runs longer than",
    "min_error_share": "errors at least",
    "created_after": "created from",
    "started_after": "started from",
    "ended_after": "ended from",
}
_FLAGS = {flag.value: word for flag, word in FLAG_WORDS.items()}


@dataclass(frozen=True, slots=True)
class TaskCount:
    """The present statuses of one task's runs in a draft. `ended`: neither pending nor running."""

    task: str
    pending: int
    running: int
    failed: int
    cancelled: int
    ended: int


@dataclass(frozen=True, slots=True)
class DraftRun:
    """One run of the list. `window`: the time range of its data, for a run to start again."""

    id: str
    url: str
    task: str
    run: str
    status: StatusMark
    at: Moment | None
    window: str


@dataclass(frozen=True, slots=True)
class Excluded:
    """Runs that were chosen but are not done, for one reason. `more`: how many are not named."""

    reason: str
    number: int
    runs: tuple[DraftRun, ...]
    more: int


@dataclass(frozen=True, slots=True)
class DraftPart:
    """The part of a batch's page that only a draft has. `page`, `pages`: of the list of runs. `experiments`: how many.

    `keeps_spans`: some runs are not experiments, so that re-evaluation matters.
    """

    tasks: tuple[TaskCount, ...]
    runs: tuple[DraftRun, ...]
    page: int
    pages: int
    first: int
    excluded: tuple[Excluded, ...]
    experiments: int
    keeps_spans: bool
    remove_url: str
    turn_url: str
    is_trigger: bool


def draft_part(batch: CancelBatch, *, slug: str, page: int) -> DraftPart:
    queued = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED)
    total = queued.count()
    pages = max(1, -(-total // LISTED))
    page = min(max(1, page), pages)
    listed = queued.select_related("run__task").order_by("pk")[(page - 1) * LISTED : page * LISTED]
    is_trigger = batch.kind == BatchKind.TRIGGER
    remove_url = reverse("batch-remove", args=[slug, batch.pk])
    experiments = queued.filter(run__task__type="run_experiment").count() if is_trigger else 0
    return DraftPart(
        tasks=_tasks(queued),
        runs=tuple(_run(item.run, slug=slug, is_trigger=is_trigger) for item in listed),
        page=page,
        pages=pages,
        first=(page - 1) * LISTED + 1,
        excluded=_excluded(batch, slug=slug),
        experiments=experiments,
        keeps_spans=is_trigger and experiments < total,
        remove_url=remove_url + (f"?list={page}" if page > 1 else ""),
        turn_url=remove_url,
        is_trigger=is_trigger,
    )


def draft_notes(batch: CancelBatch) -> list[Message]:
    """What keeps this list from being confirmed."""
    if batch.kind != BatchKind.TRIGGER:
        return []
    stop = EmergencyStop.objects.holding().select_related("person").filter(team=batch.team_id).first()
    if stop is None:
        return []
    text = (
        f"{who_of(stop)} pulled the emergency stop: {stop.reason}. "
        "Nothing can be started in the tasks that it holds until it has ended."
    )
    return [Message("warning", text)]


def filter_words(batch: CancelBatch) -> tuple[str, ...]:
    """Each filter with its value, like "status: FAILED". Unknown ones are named as in the address."""
    pairs = parse_qsl(batch.filters.removeprefix("?"))
    return tuple(f"{_LABELS.get(name, name.replace('_', ' '))}: {_value(batch, name, value)}" for name, value in pairs)


def _value(batch: CancelBatch, name: str, value: str) -> str:
    if name in {"task", "not_task", "space", "credential"}:
        return shortened(_name_of(batch, name, value) or value)
    if name.endswith(("_after", "_before")):
        at = Moment.of(datetime.fromisoformat(value))
        return at.text if at is not None else value
    words = {"status": value.upper(), "min_duration": f"{value} seconds", "type": value.replace("_", " ")}
    words |= {"min_error_share": f"{value} %", "flag": _FLAGS.get(value, value)}
    return words.get(name, value)


def _name_of(batch: CancelBatch, name: str, value: str) -> str | None:
    tasks = Task.objects.filter(team=batch.team_id)
    if name == "space":
        return tasks.filter(space_id=value).exclude(space_name="").values_list("space_name", flat=True).first()
    if name == "credential":
        return Credential.objects.filter(team=batch.team_id, pk=value).values_list("name", flat=True).first()
    return tasks.filter(arize_id=value).exclude(name="").values_list("name", flat=True).first()


def _tasks(queued: QuerySet[CancelItem]) -> tuple[TaskCount, ...]:
    """Tasks with the most runs first."""
    columns = ("run__task__name", "run__task__arize_id", "run__task__space_name")
    by_status: Mapping[str, Count] = {
        status.value: Count("pk", filter=Q(run__status=status))
        for status in (Status.PENDING, Status.RUNNING, Status.FAILED, Status.CANCELLED)
    }
    counted_ = queued.values_list(*columns).annotate(all=Count("pk"), **by_status).order_by("-all", "run__task__name")
    rows = list(counted_[:MOST_TASKS])
    labels = told_apart((arize_id, name, space) for name, arize_id, space, *_ in rows)
    return tuple(
        TaskCount(labels[arize_id], pending, running, failed, cancelled, ended=number - pending - running)
        for _, arize_id, _, number, pending, running, failed, cancelled in rows
    )


def _run(run: Run, *, slug: str, is_trigger: bool) -> DraftRun:
    """Expects `task` to be loaded."""
    return DraftRun(
        id=str(run.pk),
        url=reverse("run", args=[slug, run.pk]),
        task=str(run.task),
        run=run.arize_id,
        status=status_mark(run),
        at=Moment.of(run.run_started_at or run.created_at),
        window=_window(run) if is_trigger else "",
    )


def _window(run: Run) -> str:
    if is_experiment(run.task):
        return "experiment"
    ends = window_of(run)
    if ends is None:
        return "no time range"
    start, end = map(Moment.of, ends)
    return f"data from {start.text} to {end.text}" if start is not None and end is not None else ""


def _excluded(batch: CancelBatch, *, slug: str) -> tuple[Excluded, ...]:
    if batch.kind != BatchKind.TRIGGER:
        return ()
    items = CancelItem.objects.filter(batch=batch, state__in=NOT_STARTABLE).select_related("run__task").order_by("pk")
    groups: dict[str, list[Run]] = {}
    for item in items:
        groups.setdefault(item.state, []).append(item.run)
    return tuple(
        Excluded(
            reason=START_WORDS[state].word,
            number=len(runs),
            runs=tuple(_run(run, slug=slug, is_trigger=True) for run in runs[:MOST_EXCLUDED]),
            more=max(0, len(runs) - MOST_EXCLUDED),
        )
        for state, runs in groups.items()
    )


def passed_over_text(batch: CancelBatch) -> str:
    number = batch.passed_over
    more = "more run was chosen but is" if number == 1 else "more runs were chosen but are"
    return f"{number:,} {more} {words_of(batch).passed_over}."


def left_out_text(number: int) -> str:
    return (
        "1 more run matches now; it is not included."
        if number == 1
        else f"{number:,} more runs match now; they are not included."
    )


def confirm_text(batch: CancelBatch, total: int) -> str:
    return words_of(batch).act.format(runs=counted(total))
