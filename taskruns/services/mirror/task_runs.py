"""Reads the runs of tasks: which tasks, and how far back.

Each round reads the newest page of tasks with active runs (`active_runs.py`), of tasks whose `last_run_at` changed, of
tasks with a gap, of tasks that were never read, and then of the tasks read longest ago: the rolling search.
`last_run_at` is only a hint: Arize does not say whether it changes at the start or the end of a run.

If the newest page does not reach back to known runs, there is a gap below it. Backfill reads the older pages, newest
first, down to a run that was known when the task was last complete. It takes several rounds, or is interrupted: Arize
fails, the round ends, or the worker dies. Therefore `Task.caught_up_at` changes only when the gap is closed; below a
run that was first seen later there may be unread runs. Each round continues at `Task.gap_cursor`, after it has read the
newest page again, so the newest runs never wait for old ones.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

import structlog
from django.db.models import F, Q, QuerySet, UUIDField
from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, ListRepeats
from taskruns.arize.paging import Page, Progress
from taskruns.arize.wire import WireRun
from taskruns.models import Credential, Run, Task, Team
from taskruns.models.prepared import Prepared, Slot, TimeSlot, update_row
from taskruns.models.stamps import long_ago, recent
from taskruns.models.tasks import HAS_GAP, STILL_LISTED
from taskruns.services.credentials.budget import Kind
from taskruns.services.runs import retention
from taskruns.services.runs.observations import Reading, record_readings

from .first_contact import has_unread_tasks, unread_tasks
from .reader import Reader
from .schedule import team_has_attention
from .staleness import failed_lately, note_answer

log = structlog.get_logger(__name__)
# The rolling search, while nobody needs it fast
SEARCH_CALLS_PER_MINUTE = 10
# A small account is not searched more often than this: a hint shows most new runs sooner.
SEARCHED_EVERY = timedelta(seconds=30)
# Open boards show the progress of first contact this often, even if nothing else changes.
PROGRESS_SHOWN_EVERY = timedelta(seconds=2)
# Pages of one task in one round, so that other tasks get their turn.
MOST_PAGES = 10
PAGE = 100
# For a task whose list has failed: another page size avoids pages that repeat or are too long.
SMALLER_PAGE = 50
_HAS_MOVED = Q(last_run_at__isnull=False) & (Q(runs_read_to=None) | ~Q(last_run_at=F("runs_read_to")))
_CREDENTIAL = Slot("credential", UUIDField())
_NO_GAP: dict[str, Any] = {"gap_cursor": "", "gap_since": None, "gap_searched_at": None}

Answer = Page[WireRun] | ArizeError


def is_up_to_date(credential: Credential) -> bool:
    """Whether nothing points to unread runs, so that only the rolling search has something to read.

    One query instead of one for each kind of reading, because this is so in most rounds.
    """
    return not _to_read().exists(credential=credential.pk)


def read_moved(reader: Reader) -> int:
    """The newest runs of tasks whose `last_run_at` changed, and of tasks with a gap."""
    waiting = _rows(_moved(is_patient=_is_patient(reader)), reader)
    # The hint may have changed after the task was read in this round.
    unread = (task for task in waiting if task.pk not in reader.newest or _has_moved(task))
    return _read(reader, reader.paid(unread, Kind.MOVED))


def read_new(reader: Reader) -> int:
    """First contact: the newest page of each task that was never read. The task with the latest run comes first."""
    return read_first(reader, unread_tasks(reader.credential))


def read_first(reader: Reader, tasks: Iterable[Task]) -> int:
    return _read(reader, reader.paid(tasks, Kind.FIRST))


def find_all(task: Task) -> None:
    """The lists by status do not show all active runs of the task, so read all its runs, from the newest to the last.

    A task that was searched before needs no more than its gap.
    """
    task.caught_up_at, task.active_unread = (None, True) if task.searched_at is None else (task.caught_up_at, False)
    update_row(Task, task.pk, caught_up_at=task.caught_up_at, active_unread=task.active_unread)


def read_oldest(reader: Reader, *, everything: bool) -> int:
    """The rolling search: the tasks read longest ago. It gets what is left of the rate limit while a board is open or
    an emergency stop is active, and rests otherwise, and during first contact.
    """
    now = timezone.now()
    is_fast = team_has_attention(reader.credential) and not has_unread_tasks(reader.credential)
    soon = timedelta(seconds=5)
    if everything or is_fast:
        due = _oldest(soon if everything else SEARCHED_EVERY)
        return _read(reader, reader.paid(_rows(due, reader, reader.budget.available(Kind.SEARCH)), Kind.SEARCH))
    searched = _tasks(reader.credential.pk).filter(recent("swept_at", now, timedelta(minutes=1))).count()
    resting = _rows(_oldest(soon), reader, max(0, SEARCH_CALLS_PER_MINUTE - searched))
    Task.objects.filter(pk__in=[task.pk for task in resting]).update(swept_at=now)
    return _read(reader, reader.paid(resting, Kind.SEARCH))


def fill_gaps(reader: Reader) -> int:
    """Older pages of tasks with a gap: a few of each task."""
    return sum(_fill(reader, task) for task in _rows(_with_gap(is_patient=_is_patient(reader)), reader))


def newest_page(reader: Reader, task: Task) -> Page[WireRun]:
    return _page(reader, task, "")


def take_newest(reader: Reader, task: Task, answer: Answer, started: datetime) -> int:
    """Record the answer to `newest_page`, whose request began at `started`. Returns how many runs are new or changed.

    The reading is noted even after an error: a task that always fails must not come first each time.
    """
    if not isinstance(answer, Page):
        _note(task)
        note_answer(task, answer)
        return 0
    changed = record_page(reader, task, answer, started)
    since = timezone.now()
    progress = Progress(task.gap_cursor)
    progress.repeats(answer)  # note its runs
    reader.newest[task.pk] = progress
    hint = {"runs_read_to": task.last_run_at}
    if _is_complete(task, answer):
        _complete(task, answer, since=since, began=started, **hint)
        note_answer(task, answer)
    elif not task.gap_cursor:
        _note(task, gap_cursor=answer.next_cursor, gap_since=since, gap_searched_at=started, **hint)
    elif _reaches(task, answer, task.gap_since):
        _note(task, gap_since=since, gap_searched_at=started, **hint)
    else:
        _note(task)
        changed += _reach_gap(reader, task, answer.next_cursor or "", since=since, began=started)
    return changed


def record_page(reader: Reader, task: Task, page: Page[WireRun], started: datetime) -> int:
    """Write the runs, and the outcomes of the cancels that they show. Returns how many runs are new or changed."""
    for wire in page.items:
        reader.followed.note(wire.id, wire, started)
    changed = record_readings([Reading(task, page.items, started)])
    checked = [reader.unchecked[wire.id] for wire in page.items if wire.id in reader.unchecked]
    if checked:
        Run.objects.filter(pk__in=checked, observed_at__lt=started).update(observed_at=started)
    return changed


def _tasks(credential: uuid.UUID | Slot) -> QuerySet[Task]:
    return Task.objects.filter(credential=credential).exclude(arize_id="").defer("as_read")


def _is_patient(reader: Reader) -> bool:
    """Tasks that failed a moment ago wait. After a failure of Arize, they are read as soon as it recovers."""
    return not reader.credential.failures


def _rows(tasks: Prepared[Task], reader: Reader, most: int | None = None) -> list[Task]:
    return tasks.rows(credential=reader.credential.pk, now=timezone.now(), most=most)


@cache
def _to_read() -> Prepared[Task]:
    return Prepared(_tasks(_CREDENTIAL).filter(_HAS_MOVED | HAS_GAP | Q(runs_read_at=None) | Q(active_unread=True)))


@cache
def _moved(*, is_patient: bool) -> Prepared[Task]:
    tasks = _readable(is_patient=is_patient).filter(_HAS_MOVED | HAS_GAP, STILL_LISTED, runs_read_at__isnull=False)
    return Prepared(tasks.order_by("runs_read_at", "pk"))


@cache
def _with_gap(*, is_patient: bool) -> Prepared[Task]:
    return Prepared(_readable(is_patient=is_patient).filter(HAS_GAP, STILL_LISTED).order_by("gap_since", "pk"))


@cache
def _oldest(distance: timedelta) -> Prepared[Task]:
    """Tasks that were not read for this long. A task that was deleted in Arize is no longer listed."""
    tasks = _tasks(_CREDENTIAL).filter(STILL_LISTED, long_ago("runs_read_at", TimeSlot(), distance))
    return Prepared(tasks.filter(runs_read_at__isnull=False).order_by("runs_read_at", "pk"))


def _readable(*, is_patient: bool) -> QuerySet[Task]:
    tasks = _tasks(_CREDENTIAL)
    return tasks.exclude(failed_lately(TimeSlot())) if is_patient else tasks


def _has_moved(task: Task) -> bool:
    return task.last_run_at is not None and task.last_run_at != task.runs_read_to


def _read(reader: Reader, tasks: Iterable[Task]) -> int:
    changed = 0
    shown_at = timezone.now()
    for task, started, answer in reader.each(tasks, partial(newest_page, reader)):
        is_first = task.runs_read_at is None
        changed += take_newest(reader, task, answer, started)
        if is_first and timezone.now() - shown_at > PROGRESS_SHOWN_EVERY:
            Team.bump(task.team_id)
            shown_at = timezone.now()
    return changed


def _reach_gap(reader: Reader, task: Task, cursor: str, *, since: datetime, began: datetime) -> int:
    """More than a page of runs are new since the last round: read on, down to the runs above the gap.

    If that takes too many pages, the backfill starts again at the newest runs. After an error, or without calls, the
    next round tries again.
    """
    changed = 0
    for _ in range(MOST_PAGES - 1):
        if reader.is_over or not reader.spend(Kind.MOVED):
            return changed
        started, answer = timezone.now(), reader.call(partial(_page, reader, task, cursor))
        if not isinstance(answer, Page):
            return changed
        changed += record_page(reader, task, answer, started)
        cursor = answer.next_cursor or ""
        if _is_complete(task, answer):
            _complete(task, answer, since=since, began=began)
            return changed
        if _reaches(task, answer, task.gap_since):
            _note(task, gap_since=since, gap_searched_at=began)
            return changed
        if reader.newest[task.pk].repeats(answer):
            return changed
    _note(task, gap_cursor=cursor, gap_since=since, gap_searched_at=began)
    return changed


def _fill(reader: Reader, task: Task) -> int:
    """Continue the backfill of one task. Its progress is stored even after an error."""
    fill = _Fill(task, reader.newest.get(task.pk) or Progress(task.gap_cursor))
    answer: Answer | None = None
    while not fill.is_over and not reader.is_over and reader.spend(Kind.BACKFILL):
        started, answer = timezone.now(), reader.call(partial(_page, reader, task, fill.cursor))
        if not isinstance(answer, Page):
            break
        fill.changed += record_page(reader, task, answer, started)
        fill.take(answer)
    if answer is not None:
        _note_fill(task, fill, answer)
    return fill.changed


class _Fill:
    """The progress of a backfill in this round. `cursor`: the next page. `good`: the last page with new runs."""

    def __init__(self, task: Task, progress: Progress) -> None:
        self.cursor, self.good = task.gap_cursor, ""
        self.pages = self.changed = 0
        self.is_done = self.repeats = False
        self._task, self._progress = task, progress

    @property
    def is_over(self) -> bool:
        """All runs down to the known ones were read, or Arize does not show the rest, or others get their turn."""
        return self.is_done or self.repeats or self.pages == MOST_PAGES

    def take(self, page: Page[WireRun]) -> None:
        self.pages += 1
        self.is_done = _is_complete(self._task, page)
        self.repeats = not self.is_done and self._progress.repeats(page)
        if not self.repeats:
            self.good, self.cursor = self.cursor, page.next_cursor or ""


def _note_fill(task: Task, fill: _Fill, answer: Answer) -> None:
    if fill.is_done and isinstance(answer, Page):
        _complete(task, answer, since=task.gap_since or timezone.now(), began=task.gap_searched_at)
    elif fill.repeats:
        # What is unread is found in other ways: from the last page that had new runs, in pages of another size, and
        # active runs by their status. Without such a page, the next reading starts at the newest run.
        log.warning("arize_list_repeats", key=str(task.credential_id), task=str(task.pk))
        by_status = {"active_unread": True} if task.runs_failed_at is None else {}
        # Runs that the list shows are up to date even if it repeats itself.
        note_answer(task, ListRepeats(), at=task.gap_searched_at)
        _note(task, **({"gap_cursor": fill.good} if fill.good else _NO_GAP), **by_status)
        return
    elif isinstance(answer, BadRequest) and fill.pages == 0:
        # Arize rejects the cursor: start again at the newest run.
        _note(task, **_NO_GAP, runs_read_to=None)
    else:
        _note(task, gap_cursor=fill.cursor)
    note_answer(task, answer)


def _is_complete(task: Task, page: Page[WireRun]) -> bool:
    """All runs down to those that were known when the task was last complete have been read."""
    return not page.next_cursor or _reaches(task, page, task.caught_up_at)


def _reaches(task: Task, page: Page[WireRun], known_at: datetime | None) -> bool:
    """Whether the page contains a run that was known at that time, or one too old to be kept.

    A run that was first seen later, alone or among active runs, does not prove that the runs below it are known.
    Without an earlier reading one page is enough: older runs are read on demand, unless all are to be found.
    """
    if known_at is None and task.active_unread:
        return any(retention.is_past(wire) for wire in page.items)
    if known_at is None or any(retention.is_past(wire) for wire in page.items):
        return True
    ids = [wire.id for wire in page.items]
    known = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=ids)
    return known.filter(first_seen_at__lte=known_at).exists()


def _complete(task: Task, page: Page[WireRun], *, since: datetime, began: datetime | None, **changes: Any) -> None:
    """`since`: when the newest runs were recorded. `began`: when their request began.

    After the first reading, older runs may still be active. The task counts as searched when those were read too.
    """
    changes |= {**_NO_GAP, "caught_up_at": since}
    if task.caught_up_at is None:
        changes["active_unread"] = bool(page.next_cursor) and not task.active_unread
    if task.searched_at is None and changes.get("active_unread", task.active_unread):
        changes["gap_searched_at"] = began
    else:
        changes["searched_at"] = began
    _note(task, **changes)


def _note(task: Task, **changes: Any) -> None:
    changes["runs_read_at"] = timezone.now()
    update_row(Task, task.pk, **changes)
    for name, value in changes.items():
        setattr(task, name, value)


def _page(reader: Reader, task: Task, cursor: str) -> Page[WireRun]:
    limit = PAGE if task.runs_failed_at is None else SMALLER_PAGE
    return reader.client.list_runs(task.arize_id, cursor=cursor or None, limit=limit)
