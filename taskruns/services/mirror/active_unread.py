"""Reads active runs below the newest page of a task: after its first reading, and after a list that repeated itself.

They are listed by status, page by page. The task counts as searched only when both lists were read to their end. If
they do not end, all runs of the task are read: `find_all` in `task_runs.py`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import BadRequest, HalfAsked
from taskruns.arize.paging import Page, Progress
from taskruns.arize.wire import RunStatus, WireRun
from taskruns.models import Task
from taskruns.services.credentials.budget import Kind

from . import task_runs
from .first_contact import has_unread_tasks
from .reader import Reader
from .staleness import failed_lately, note_answer

_STATUSES = (RunStatus.RUNNING, RunStatus.PENDING)
# Begin only with this share of the rate limit at hand (6 of 300 calls): an interrupted list has to begin again.
_TO_BEGIN = 1 / 50


def read_active_unread(reader: Reader) -> int:
    """Returns how many runs are new or changed. Only after first contact: each task costs at least two calls."""
    if has_unread_tasks(reader.credential) or not _has_calls(reader):
        return 0
    tasks = Task.objects.filter(credential=reader.credential, active_unread=True).exclude(failed_lately(timezone.now()))
    searches = [_Search(task) for task in tasks.filter(caught_up_at__isnull=False).order_by("pk")]
    changed = _read_lists(reader, searches)
    if searches and reader.stopped_by is None:
        searches[0].give_up()
    for search in searches:
        if search.is_whole:
            _note_active_read(search.task)
        elif search.is_endless:
            task_runs.find_all(search.task)
    return changed + task_runs.read_first(reader, tasks.filter(caught_up_at=None, gap_cursor=""))


def _has_calls(reader: Reader) -> bool:
    return reader.budget.available(Kind.FIRST) >= max(1, int(settings.ARIZE_CALLS_PER_MINUTE * _TO_BEGIN))


@dataclass(eq=False)
class _List:
    """The active runs of one task with one status. `is_whole`: None until its end was reached; False if Arize does not
    show all of it, or if it takes more pages than other tasks can wait for.
    """

    task: Task
    status: RunStatus
    cursor: str | None = None
    pages: int = 0
    is_whole: bool | None = None
    progress: Progress = field(default_factory=Progress)

    def take(self, page: Page[WireRun]) -> None:
        self.pages += 1
        self.cursor = page.next_cursor
        if not page.next_cursor:
            self.is_whole = True
        elif self.progress.repeats(page) or self.pages == task_runs.MOST_PAGES:
            self.is_whole = False


class _Search:
    """The lists of one task in this round. They begin again in the next one if a call fails."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.lists = [_List(task, status) for status in _STATUSES]
        self.has_failed = False

    @property
    def is_whole(self) -> bool:
        return all(each.is_whole for each in self.lists)

    @property
    def is_endless(self) -> bool:
        return not self.is_whole and all(each.is_whole is not None for each in self.lists)

    def give_up(self) -> None:
        """Nothing came before this task. If the round was still too short, the next one would be too."""
        if not self.has_failed and any(each.pages for each in self.lists):
            for each in self.lists:
                each.is_whole = each.is_whole or False


class _Queue(Iterator[_List]):
    """The lists to read on, each for one call of the budget. A list that has begun comes first, so that it ends."""

    def __init__(self, reader: Reader, lists: Iterable[_List]) -> None:
        self._reader = reader
        self._waiting = deque(lists)

    def __next__(self) -> _List:
        if not self._waiting or not self._reader.spend(Kind.FIRST):
            raise StopIteration
        return self._waiting.popleft()

    def put_back(self, begun: _List) -> None:
        self._waiting.appendleft(begun)


def _read_lists(reader: Reader, searches: list[_Search]) -> int:
    of_task = {search.task: search for search in searches}
    queue = _Queue(reader, (each for search in searches for each in search.lists))
    changed = 0
    for each, started, answer in reader.each(queue, partial(_page, reader.client)):
        if isinstance(answer, Page):
            changed += task_runs.record_page(reader, each.task, answer, started)
            each.take(answer)
            if each.is_whole is None:
                queue.put_back(each)
        elif isinstance(answer, BadRequest) and not isinstance(answer, HalfAsked):
            each.is_whole = False  # this server lacks the filter, but can still list the runs
        else:
            of_task[each.task].has_failed = True
            if not isinstance(answer, HalfAsked):
                note_answer(each.task, answer)
    return changed


def _page(client: ArizeClient, each: _List) -> Page[WireRun]:
    return client.list_runs(each.task.arize_id, status=each.status, cursor=each.cursor)


def _note_active_read(task: Task) -> None:
    """The first reading is complete now. If a gap has opened since, the task is not searched before that is closed."""
    row = Task.objects.filter(pk=task.pk)
    row.filter(searched_at=None, gap_cursor="").update(searched_at=F("gap_searched_at"), gap_searched_at=None)
    row.update(active_unread=False)
