"""Display models of the page of a task."""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.db.models import Count, Q, QuerySet
from django.urls import reverse
from django.utils.http import urlencode

from taskruns.arize.wire import TaskType
from taskruns.models import BatchKind, Run, Status, Task
from taskruns.permissions import Action, TeamAccess
from taskruns.services.batches import KIND_FACTS

from .board.rows import RunRow, run_rows, with_creators
from .credentials import warnings_of
from .strip import LAST, Strip, strip_of
from .values import (
    Message,
    Moment,
    StatusMark,
    mark_of,
    roughly,
    short_id,
)


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in the task's list, with its row of the board; `at`: when it started, or was created."""

    row: RunRow
    short_id: str
    at: Moment | None

    @property
    def items(self) -> str:
        counts = self.row.counts
        return counts.text if counts.succeeded or counts.errored or counts.skipped else ""


@dataclass(frozen=True, slots=True)
class StatusCount:
    status: StatusMark
    count: int


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why runs failed, in Arize's words; empty if Arize gave no reason. `url`, `at`: of the newest of these runs."""

    text: str
    count: int
    url: str
    at: Moment | None


@dataclass(frozen=True, slots=True)
class Failures:
    """The reasons of the last failed runs. `runs`: how many they are. `more`: reasons that are not listed.

    `again_url`: where to start failed runs again; empty for people who may not, or if the task has no id.
    """

    reasons: tuple[FailureReason, ...]
    runs: int
    more: int
    again_url: str


@dataclass(frozen=True, slots=True)
class TaskPage:
    """`counted`: which runs `counts` covers. `trigger_url`: empty for people who may not start a run.
    `failures`: None if none of those runs failed.
    """

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
    failures: Failures | None = None
    trigger_url: str = ""

    @property
    def can_cancel(self) -> bool:
        return any(line.row.cancel_url for line in self.runs)


def run_lines(runs: list[Run], *, team_access: TeamAccess) -> tuple[RunLine, ...]:
    """Expects tasks, keys and creators to be loaded."""
    rows = run_rows(runs, accesses=[team_access])
    return tuple(
        RunLine(row, short_id(run.arize_id), Moment.of(run.run_started_at or run.created_at))
        for run, row in zip(runs, rows, strict=True)
    )


def run_line(run_id: uuid.UUID, *, team_access: TeamAccess) -> RunLine:
    """One line, read anew, for example after a cancel."""
    run = with_creators(Run.objects.select_related("task__credential")).get(pk=run_id)
    return run_lines([run], team_access=team_access)[0]


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


def task_page(task_id: uuid.UUID, *, team_access: TeamAccess) -> TaskPage:
    """One task and its newest runs, for a person with this access."""
    access, slug = team_access.access, team_access.team.slug
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
        runs=run_lines(runs, team_access=team_access),
        all_runs_url=all_runs_url(task, slug=slug),
        is_active=any(run.is_active for run in runs),
        warnings=warnings_of([key], readers=[team_access]) if key else (),
        as_of=Moment.of(task.runs_read_at),
        as_read=task_json(task),
        failures=failures_of(task, team_access=team_access),
        trigger_url=reverse("task-trigger", args=[slug, task.pk]) if access.may(Action.RUNS_TRIGGER) else "",
    )


def task_strip(task: Task, *, slug: str, here: Run | None = None) -> Strip:
    """`here`: the run whose page shows the strip."""
    return strip_of(task, _newest(task, LAST), slug=slug, here=here)


def _newest(task: Task, count: int) -> list[Run]:
    """Active runs first, then the newest, each with its task, without their JSON."""
    runs = list(with_creators(_in_order(task)).defer("as_read")[:count])
    for run in runs:
        run.task = task
    return runs


FAILED_LOOKED_AT = 50
REASONS = 5
LONGEST_REASON = 1_000  # characters that are compared and shown
# Ids, numbers and times differ between failures of one kind.
_DIFFERS = re.compile(r"\b(?=\w*\d)\w+\b")


def failures_of(task: Task, *, team_access: TeamAccess) -> Failures | None:
    """Why the last failed runs failed, most frequent reason first. None if none of the newest runs failed."""
    newest = Run.objects.filter(pk__in=_in_order(task).values("pk")[:COUNTED])
    failed = newest.filter(status=Status.FAILED).order_by("-sorted_at", "-pk")
    found = list(failed.only("failure_reason", "run_finished_at", "sorted_at")[:FAILED_LOOKED_AT])
    if not found:
        return None
    reasons = _grouped(found, slug=team_access.team.slug)
    may_start = bool(task.arize_id) and KIND_FACTS[BatchKind.TRIGGER].may(team_access.access)
    return Failures(
        reasons=reasons[:REASONS],
        runs=len(found),
        more=len(reasons) - REASONS,
        again_url=reverse("batches", args=[team_access.team.slug]) if may_start else "",
    )


def _grouped(failed: Iterable[Run], *, slug: str) -> tuple[FailureReason, ...]:
    """Newest first, as given, among reasons that are equally frequent."""
    groups: dict[str, list[Run]] = {}
    for run in failed:
        groups.setdefault(_DIFFERS.sub("#", _reason(run)), []).append(run)
    frequent = sorted(groups.values(), key=len, reverse=True)
    return tuple(
        FailureReason(
            _reason(runs[0]),
            len(runs),
            reverse("run", args=[slug, runs[0].pk]),
            Moment.of(runs[0].run_finished_at or runs[0].sorted_at),
        )
        for runs in frequent
    )


def _reason(run: Run) -> str:
    return (run.failure_reason or "").strip()[:LONGEST_REASON]


def _counts(task: Task) -> tuple[StatusCount, ...]:
    by_status = {status.value: Count("pk", filter=Q(status=status)) for status in Status}
    return status_counts(_in_order(task)[:COUNTED].aggregate(**by_status))


def _in_order(task: Task) -> QuerySet[Run]:
    return Run.objects.filter(task=task).order_by("-rank", "-sorted_at", "-pk")
