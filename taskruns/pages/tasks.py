"""Display models of the page of a task."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Count, Q, QuerySet
from django.urls import reverse
from django.utils.http import urlencode

from taskruns.arize.wire import TaskType
from taskruns.models import Run, Status, Task
from taskruns.permissions import Access, Action

from .credentials import warnings_of
from .strip import LAST, Strip, strip_of
from .values import (
    Duration,
    Message,
    Moment,
    Pace,
    StatusMark,
    counts_of,
    duration_of,
    mark_of,
    pace_of,
    roughly,
    status_mark,
)


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in the task's list; `at`: when it started, or was created."""

    id: str
    arize_id: str
    url: str
    status: StatusMark
    at: Moment | None
    duration: Duration | None
    pace: Pace
    items: str


@dataclass(frozen=True, slots=True)
class StatusCount:
    status: StatusMark
    count: int


@dataclass(frozen=True, slots=True)
class TaskPage:
    """`counted`: which runs `counts` covers. `trigger_url`: empty for people who may not start a run."""

    url: str
    name: str
    arize_id: str
    type: str
    schedule: str
    space: str
    credential: str
    last_run: Moment | None
    usual: str
    counts: tuple[StatusCount, ...]
    counted: str
    strip: Strip
    runs: tuple[RunLine, ...]
    all_runs_url: str
    is_active: bool
    warnings: tuple[Message, ...]
    as_of: Moment | None
    as_read: str
    trigger_url: str = ""


def run_line(run: Run, *, slug: str) -> RunLine:
    """Expects `run.task` to be loaded."""
    counts = counts_of(run)
    return RunLine(
        id=str(run.pk),
        arize_id=run.arize_id,
        url=reverse("run", args=[slug, run.pk]),
        status=status_mark(run),
        at=Moment.of(run.run_started_at or run.created_at),
        duration=duration_of(run),
        pace=pace_of(run),
        items=counts.text if counts.succeeded or counts.errored or counts.skipped else "",
    )


def status_counts(counts: Mapping[str, int]) -> tuple[StatusCount, ...]:
    """The statuses that occur, in the order of a run's life."""
    return tuple(StatusCount(mark_of(status), counts[status]) for status in Status if counts.get(status))


def name_of(task: Task) -> str:
    """A run whose answer named no task belongs to a placeholder task without name and id."""
    return task.name or task.arize_id or "A task without a name"


def type_of(task: Task) -> str:
    if task.type != TaskType.UNKNOWN:
        return task.type.replace("_", " ")
    reported = str(json.loads(task.as_read).get("type") or "")[:100]
    return f"{reported} (unknown to this panel)" if reported else "not reported by Arize"


def schedule_of(task: Task) -> str:
    return {
        True: "Continuous: it runs by itself on new data",
        False: "Not continuous: it runs only when it is started",
        None: "Not reported by Arize",
    }[task.is_continuous]


def all_runs_url(task: Task, *, slug: str) -> str:
    """The board with the runs of this task only; empty if the task has no id to filter by."""
    return f"{reverse('board', args=[slug])}?{urlencode({'task': task.arize_id})}" if task.arize_id else ""


def task_json(task: Task) -> str:
    """The task as last read, indented."""
    return json.dumps(json.loads(task.as_read), indent=2, ensure_ascii=False)


def usual_duration(task: Task) -> str:
    return "not known yet" if task.usual_seconds is None else roughly(task.usual_seconds)


LISTED = 50
# Counting reads rows: a task with a million runs must not make its page slow.
COUNTED = 1_000


def task_page(task_id: uuid.UUID, *, access: Access, slug: str) -> TaskPage:
    """One task and its newest runs, for a person with this access."""
    task = Task.objects.select_related("credential").get(pk=task_id)
    runs = _newest(task, LISTED)
    counts = _counts(task)
    total = sum(count.count for count in counts)
    key = task.credential
    return TaskPage(
        url=reverse("task", args=[slug, task.pk]),
        name=name_of(task),
        arize_id=task.arize_id,
        type=type_of(task),
        schedule=schedule_of(task),
        space=task.space_name or task.space_id,
        credential=key.name if key else "",
        last_run=Moment.of(task.last_run_at),
        usual=usual_duration(task),
        counts=counts,
        counted=f"of the last {total:,} runs" if total == COUNTED else f"of {total:,} known here",
        strip=strip_of(task, runs, slug=slug),
        runs=tuple(run_line(run, slug=slug) for run in runs),
        all_runs_url=all_runs_url(task, slug=slug),
        is_active=any(run.is_active for run in runs),
        warnings=warnings_of([key]) if key else (),
        as_of=Moment.of(task.runs_read_at),
        as_read=task_json(task),
        trigger_url=reverse("task-trigger", args=[slug, task.pk]) if access.may(Action.RUNS_TRIGGER) else "",
    )


def task_strip(task: Task, *, slug: str, here: Run | None = None) -> Strip:
    """`here`: the run whose page shows the strip."""
    return strip_of(task, _newest(task, LAST), slug=slug, here=here)


def _newest(task: Task, count: int) -> list[Run]:
    """Active runs first, then the newest, each with its task, without their JSON."""
    runs = list(_in_order(task).defer("as_read")[:count])
    for run in runs:
        run.task = task
    return runs


def _counts(task: Task) -> tuple[StatusCount, ...]:
    by_status = {status.value: Count("pk", filter=Q(status=status)) for status in Status}
    return status_counts(_in_order(task)[:COUNTED].aggregate(**by_status))


def _in_order(task: Task) -> QuerySet[Run]:
    return Run.objects.filter(task=task).order_by("-rank", "-sorted_at", "-pk")
