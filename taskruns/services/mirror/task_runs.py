"""Reads the newest runs of tasks: which tasks, and how far back.

Each round reads tasks whose `last_run_at` changed, tasks that were never read, and the tasks read longest ago.
`last_run_at` is only a hint: Arize does not say whether it changes at the start or the end of a run.

Backfill reads older pages, newest first, down to a run that was known at the last backfill. It can be interrupted:
Arize fails, the round ends, or the worker dies. Therefore `Task.caught_up_at` changes only when a backfill is complete;
below a run that was first seen later there may be unread runs. The next round continues at `Task.gap_cursor`, so even a
deep backfill completes.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, ListRepeats
from taskruns.arize.paging import Page, Progress
from taskruns.arize.wire import WireRun
from taskruns.models import Credential, Run, Task, Team
from taskruns.models.tasks import STILL_LISTED
from taskruns.services.runs import retention
from taskruns.services.runs.observations import Reading, record_readings

from .budget import Kind
from .first_contact import unread_tasks
from .reader import Reader
from .staleness import failed_lately, note_answer

log = structlog.get_logger(__name__)
SEARCH_CALLS_PER_MINUTE = 10
# Open boards show the progress of first contact this often, even if nothing else changes.
PROGRESS_SHOWN_EVERY = timedelta(seconds=2)
# Pages of one task in one round, so that other tasks get their turn.
MOST_PAGES = 10
_HAS_GAP = ~Q(gap_cursor="")

Answer = Page[WireRun] | ArizeError


def read_moved(reader: Reader) -> int:
    """Tasks whose `last_run_at` changed, and tasks with an incomplete backfill."""
    moved = Q(last_run_at__isnull=False) & (Q(runs_read_to=None) | ~Q(last_run_at=F("runs_read_to")))
    tasks = _tasks(reader).filter(moved | _HAS_GAP, STILL_LISTED, runs_read_at__isnull=False)
    waiting = tasks.exclude(failed_lately())
    return _read(reader, reader.paid(waiting.order_by("runs_read_at", "pk")))


def read_new(reader: Reader) -> int:
    """First contact: the newest page of each task that was never read. The task with the latest run comes first."""
    tasks = unread_tasks(reader.credential).order_by(F("last_run_at").desc(nulls_last=True), "pk")
    return _read(reader, reader.paid(tasks, Kind.FIRST))


def read_oldest(reader: Reader, *, everything: bool) -> int:
    """The rolling search: the tasks read longest ago."""
    minute_ago = timezone.now() - timedelta(minutes=1)
    searched = _tasks(reader).filter(swept_at__gt=minute_ago).count()
    share = 1_000_000 if everything else max(0, SEARCH_CALLS_PER_MINUTE - searched)
    # A task that was deleted in Arize is no longer listed.
    waiting = _tasks(reader).filter(STILL_LISTED, runs_read_at__lte=timezone.now() - timedelta(seconds=5))
    tasks = list(waiting.order_by("runs_read_at", "pk")[:share])
    Task.objects.filter(pk__in=[task.pk for task in tasks]).update(swept_at=timezone.now())
    return _read(reader, reader.paid(tasks))


def is_backfilling(credential: Credential) -> bool:
    """Whether an incomplete backfill can continue now."""
    return Task.objects.filter(_HAS_GAP, credential=credential, runs_failed_at=None).exists()


def _tasks(reader: Reader) -> QuerySet[Task]:
    return Task.objects.filter(credential=reader.credential).exclude(arize_id="")


def _read(reader: Reader, tasks: Iterator[Task]) -> int:
    changed = 0
    shown_at = timezone.now()
    for task, started, answer in reader.each(tasks, partial(_first_page, reader)):
        changed += _backfill(reader, task, answer, started)
        if task.runs_read_at is None and timezone.now() - shown_at > PROGRESS_SHOWN_EVERY:
            Team.bump(task.team_id)
            shown_at = timezone.now()
    return changed


def _backfill(reader: Reader, task: Task, answer: Answer, started: datetime) -> int:
    """Record the `answer` to `_first_page`, whose request began at `started`, and older pages.

    Returns the number of runs that are new or changed. Progress is stored even after an error: a task that always fails
    must not come first each time.
    """
    backfill, began = _Backfill(task), started
    while isinstance(answer, Page):
        backfill.take(answer, started)
        if backfill.repeats:
            log.warning("arize_list_repeats", key=str(reader.credential.pk), task=str(task.pk))
            answer = ListRepeats()
        if backfill.is_over or backfill.pages == MOST_PAGES or reader.is_over or not reader.spend():
            break
        started, answer = timezone.now(), reader.call(partial(_page, reader, task, backfill.cursor))
    was_gap = bool(task.gap_cursor)
    _note(task, backfill, answer)
    # Runs that the list shows are up to date even if it repeats itself.
    note_answer(task, answer, at=began if backfill.repeats else None)
    if not backfill.is_done or not was_gap or reader.is_over or not reader.spend():
        return backfill.changed
    # The gap is closed. Now read the runs that appeared since the backfill began.
    started, answer = timezone.now(), reader.call(partial(_first_page, reader, task))
    return backfill.changed + _backfill(reader, task, answer, started)


def _first_page(reader: Reader, task: Task) -> Page[WireRun]:
    """From the newest run, or from where the last backfill stopped."""
    return _page(reader, task, task.gap_cursor)


def _page(reader: Reader, task: Task, cursor: str) -> Page[WireRun]:
    return reader.client.list_runs(task.arize_id, cursor=cursor or None)


class _Backfill:
    """The progress of a backfill. `since`: when its newest runs were recorded. `cursor`: where it continues."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.since = task.gap_since
        self.cursor = task.gap_cursor
        self.pages = 0
        self.changed = 0
        self.is_done = self.repeats = False
        self._progress = Progress(task.gap_cursor)

    @property
    def is_over(self) -> bool:
        """All runs down to the known ones were read, or Arize does not show the rest."""
        return self.is_done or self.repeats

    def take(self, page: Page[WireRun], started: datetime) -> None:
        reaches_back = _reaches_back(self.task, page)
        self.changed += record_readings([Reading(self.task, page.items, started)])
        self.since = self.since or timezone.now()
        self.cursor = page.next_cursor or ""
        self.is_done = reaches_back or not self.cursor
        self.repeats = self._progress.repeats(page) and not self.is_done
        self.pages += 1


def _reaches_back(task: Task, page: Page[WireRun]) -> bool:
    """Whether the page contains a run that was known when the last backfill completed, or one too old to be kept.

    A run that was first seen later, alone or among active runs, does not prove that the runs below it are known.
    Without an earlier backfill one page is enough: older runs are read on demand.
    """
    if task.caught_up_at is None or any(retention.is_past(wire) for wire in page.items):
        return True
    ids = [wire.id for wire in page.items]
    known = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=ids)
    return known.filter(first_seen_at__lte=task.caught_up_at).exists()


def _note(task: Task, backfill: _Backfill, answer: Answer) -> None:
    changes: dict[str, Any] = {
        "gap_cursor": backfill.cursor,
        "gap_since": backfill.since if backfill.cursor else None,
    }
    if backfill.is_done:
        changes = {"gap_cursor": "", "gap_since": None, "caught_up_at": backfill.since}
        if task.caught_up_at is None:
            changes["active_unread"] = bool(backfill.cursor)
        if not task.gap_cursor:
            changes["runs_read_to"] = task.last_run_at
    elif backfill.repeats:
        # Not caught up: the next backfill tries again, when the task moves or the rolling search reads it.
        changes = {"gap_cursor": "", "gap_since": None, "runs_read_to": task.last_run_at}
    elif isinstance(answer, BadRequest) and backfill.pages == 0:
        changes = {"gap_cursor": "", "gap_since": None}  # Arize rejects the cursor: start again at the newest run
    Task.objects.filter(pk=task.pk).update(runs_read_at=timezone.now(), **changes)
    for name, value in changes.items():
        setattr(task, name, value)
