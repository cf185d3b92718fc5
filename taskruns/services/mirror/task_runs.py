"""Walking back through the runs of one task, newest first, until one that was there at the last walk.

A walk breaks off where Arize fails, the round is over or the worker dies. So `Task.caught_up_at` moves at the end of a
walk only: whatever was first seen later may have unread runs below it. `Task.gap_cursor` is where the next round goes
on, so that the deepest walk comes to its end in the end.
"""

from datetime import datetime
from functools import partial
from typing import Any

from django.db.models import Q
from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireRun
from taskruns.models import Credential, Run, Task
from taskruns.services.runs import retention
from taskruns.services.runs.observations import Reading, record_readings

from .reader import Reader
from .staleness import note_fault

# Of one task in one round: the others have their turn too.
MOST_PAGES = 10
HAS_GAP = ~Q(gap_cursor="")

Answer = Page[WireRun] | ArizeError


def first_page(reader: Reader, task: Task) -> Page[WireRun]:
    """Where the walk begins: at the newest run, or where the last one broke off."""
    return _page(reader, task, task.gap_cursor)


def walk(reader: Reader, task: Task, answer: Answer, started: datetime) -> int:
    """Record the `answer` to `first_page`, whose question began at `started`, and older pages.

    The number of runs that are new or changed. How far it came is noted with the task, also after a fault: a task that
    always fails must not keep the others waiting.
    """
    way = _Way(task)
    while isinstance(answer, Page):
        way.take(answer, started)
        if way.is_done or way.pages == MOST_PAGES or reader.is_over or not reader.spend():
            break
        started, answer = timezone.now(), reader.call(partial(_page, reader, task, way.cursor))
    was_gap = bool(task.gap_cursor)
    _note(task, way, answer)
    note_fault(task, answer)
    if not way.is_done or not was_gap or reader.is_over or not reader.spend():
        return way.changed
    # The gap is closed: now what came since the walk began.
    started, answer = timezone.now(), reader.call(partial(first_page, reader, task))
    return way.changed + walk(reader, task, answer, started)


def are_open(credential: Credential) -> bool:
    """Whether a walk waits to go on that could do so now."""
    return Task.objects.filter(HAS_GAP, credential=credential, runs_failed_at=None).exists()


def _reaches_back(task: Task, page: Page[WireRun]) -> bool:
    """Holds a run that was there when the last walk ended, or one too old to be kept.

    One that was first seen since, by a single look or on the page of active runs, tells nothing of those below it.
    Without a walk before there is nothing to reach: older runs are read on demand.
    """
    if task.caught_up_at is None or any(retention.is_past(wire) for wire in page.items):
        return True
    ids = [wire.id for wire in page.items]
    known = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=ids)
    return known.filter(first_seen_at__lte=task.caught_up_at).exists()


def _page(reader: Reader, task: Task, cursor: str) -> Page[WireRun]:
    return reader.client.list_runs(task.arize_id, cursor=cursor or None)


class _Way:
    """How far a walk has come. `since`: when the newest of its runs were recorded; `cursor`: where it goes on."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.since = task.gap_since
        self.cursor = task.gap_cursor
        self.pages = 0
        self.changed = 0
        self.is_done = False
        self._met: set[str] = set()

    def take(self, page: Page[WireRun], started: datetime) -> None:
        reaches_back = _reaches_back(self.task, page)
        self.changed += record_readings([Reading(self.task, page.items, started)])
        self.since = self.since or timezone.now()
        found = {wire.id for wire in page.items}
        self.cursor = page.next_cursor or ""
        # A page that tells nothing new comes from a server that knows no cursor.
        goes_round = self.pages > 0 and found <= self._met
        self.is_done = reaches_back or not self.cursor or goes_round
        self._met |= found
        self.pages += 1


def _note(task: Task, way: _Way, answer: Answer) -> None:
    changes: dict[str, Any] = {"gap_cursor": way.cursor, "gap_since": way.since if way.cursor else None}
    if way.is_done:
        changes = {"gap_cursor": "", "gap_since": None, "caught_up_at": way.since}
        if task.caught_up_at is None:
            changes["active_unread"] = bool(way.cursor)
        if not task.gap_cursor:
            changes["runs_read_to"] = task.last_run_at
    elif isinstance(answer, BadRequest) and way.pages == 0:
        changes = {"gap_cursor": "", "gap_since": None}  # Arize no longer takes the cursor: walk anew from the newest
    Task.objects.filter(pk=task.pk).update(runs_read_at=timezone.now(), **changes)
    for name, value in changes.items():
        setattr(task, name, value)
