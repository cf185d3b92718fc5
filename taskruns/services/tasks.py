"""What the page of a task shows, read from the mirror alone. The number of queries does not depend on its runs."""

import uuid

from django.db.models import Count, Q, QuerySet
from django.urls import reverse

from taskruns.display.strip import LAST, Strip, strip_of
from taskruns.display.tasks import (
    StatusCount,
    TaskPage,
    all_runs_url,
    name_of,
    run_line,
    schedule_of,
    status_counts,
    task_json,
    type_of,
    usual_duration,
)
from taskruns.display.words import Moment
from taskruns.models import Run, Status, Task
from taskruns.permissions import Access, Action

from .board import warnings_of

LISTED = 50
# Counting is reading: a task with a million runs must not make its page slow.
COUNTED = 1_000


def task_page(task_id: uuid.UUID, *, access: Access, slug: str) -> TaskPage:
    """Everything about one task, and its newest runs, for somebody with this access."""
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
    """`here`: the run whose page shows it."""
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
