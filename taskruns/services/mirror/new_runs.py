"""Reading the newest runs of tasks: those that moved, those that are new here, and a rolling sweep over the rest.

`last_run_at` is only a hint (Arize does not say whether it moves at the start or the end of a run), hence the sweep.
"""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.models import Task, Team
from taskruns.models.tasks import STILL_LISTED
from taskruns.services.mirror.first_contact import unread_tasks

from . import task_runs
from .budget import Kind
from .reader import Reader
from .staleness import failed_lately

SWEEP_CALLS_PER_MINUTE = 10
# How often open boards are told of progress, beside what changes anyway.
TOLD_EVERY = timedelta(seconds=2)


def read_moved(reader: Reader) -> int:
    """Tasks whose `last_run_at` moved, and those where a walk broke off."""
    moved = Q(last_run_at__isnull=False) & (Q(runs_read_to=None) | ~Q(last_run_at=F("runs_read_to")))
    tasks = _tasks(reader).filter(moved | task_runs.HAS_GAP, STILL_LISTED, runs_read_at__isnull=False)
    waiting = tasks.exclude(failed_lately())
    return _read(reader, reader.paid(waiting.order_by("runs_read_at", "pk")))


def read_new(reader: Reader) -> int:
    """First contact: the newest page of tasks that were never read, those that ran last first."""
    tasks = unread_tasks(reader.credential).order_by(F("last_run_at").desc(nulls_last=True), "pk")
    return _read(reader, reader.paid(tasks, Kind.FIRST))


def read_oldest(reader: Reader, *, everything: bool) -> int:
    """The rolling sweep: the tasks that were not read for longest."""
    minute_ago = timezone.now() - timedelta(minutes=1)
    swept = _tasks(reader).filter(swept_at__gt=minute_ago).count()
    share = 1_000_000 if everything else max(0, SWEEP_CALLS_PER_MINUTE - swept)
    # The lists of a key leave out what was deleted in Arize.
    waiting = _tasks(reader).filter(STILL_LISTED, runs_read_at__lte=timezone.now() - timedelta(seconds=5))
    tasks = list(waiting.order_by("runs_read_at", "pk")[:share])
    Task.objects.filter(pk__in=[task.pk for task in tasks]).update(swept_at=timezone.now())
    return _read(reader, reader.paid(tasks))


def _tasks(reader: Reader) -> QuerySet[Task]:
    return Task.objects.filter(credential=reader.credential).exclude(arize_id="")


def _read(reader: Reader, tasks: Iterator[Task]) -> int:
    changed = 0
    told_at = timezone.now()
    for task, started, answer in reader.each(tasks, partial(task_runs.first_page, reader)):
        changed += task_runs.walk(reader, task, answer, started)
        if task.runs_read_at is None and timezone.now() - told_at > TOLD_EVERY:
            Team.bump(task.team_id)
            told_at = timezone.now()
    return changed
