"""Reading runs: the active ones, those of tasks that moved, and a rolling sweep over the rest.

`last_run_at` is only a hint (Arize does not say whether it moves at the start or the end of a run), hence the sweep.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import ArizeError, NotFound
from taskruns.arize.wire import Page, WireRun
from taskruns.models import Run, Task
from taskruns.services.runs import Reading, record_gone, record_observation, record_readings

from .reader import Reader

T = TypeVar("T")

SWEEP_CALLS_PER_MINUTE = 10
# How far back "newest until a known one" walks; older ones are read on demand.
MOST_PAGES = 10


def read_active(reader: Reader) -> int:
    """Two or more active runs of a task cost one list page; a single one, and what the page left out, one call each.

    They leave a third of the minute's calls, or many active runs would keep new ones from being found.
    """
    runs = Run.objects.filter(team=reader.credential.team_id, rank=1, task__credential=reader.credential)
    by_task: dict[Task, list[Run]] = defaultdict(list)
    for run in runs.select_related("task").order_by("observed_at"):
        by_task[run.task].append(run)
    many = {task: group for task, group in by_task.items() if len(group) > 1}
    single = [group[0] for group in by_task.values() if len(group) == 1]
    changed = 0
    for task, started, page in reader.each(_paid(reader, many, keep_a_third=True), _first_page(reader)):
        if isinstance(page, ArizeError):
            single += many[task] if isinstance(page, NotFound) else []
            continue
        listed = {wire.id for wire in page.items}
        changed += record_readings([Reading(task, page.items, started)])
        single += [run for run in many[task] if run.arize_id not in listed]
    return changed + _read_single(reader, single)


def _read_single(reader: Reader, runs: list[Run]) -> int:
    changed = 0
    paid = _paid(reader, runs, keep_a_third=True)
    for run, started, seen in reader.each(paid, lambda run: reader.client.get_run(run.arize_id)):
        if isinstance(seen, NotFound):
            changed += record_gone(run, started)
        elif not isinstance(seen, ArizeError):
            changed += record_observation(run, seen, started)
    return changed


def read_moved(reader: Reader) -> int:
    """Tasks never read, and those whose `last_run_at` moved: newest runs until a known one."""
    moved = Q(runs_read_at=None) | (Q(last_run_at__isnull=False) & ~Q(last_run_at=F("runs_read_to")))
    unknown_mark = Q(last_run_at__isnull=False, runs_read_to=None)
    tasks = _tasks(reader).filter(moved | unknown_mark).order_by(F("runs_read_at").asc(nulls_first=True), "pk")
    return _read_newest(reader, tasks, until_known=True)


def read_oldest(reader: Reader, *, everything: bool) -> int:
    """The rolling sweep: the newest page of the tasks that were not read for longest."""
    minute_ago = timezone.now() - timedelta(minutes=1)
    swept = _tasks(reader).filter(swept_at__gt=minute_ago).count()
    share = 1_000_000 if everything else max(0, SWEEP_CALLS_PER_MINUTE - swept)
    waiting = _tasks(reader).exclude(runs_read_at__gt=timezone.now() - timedelta(seconds=5))
    tasks = list(waiting.order_by("runs_read_at", "pk")[:share])
    Task.objects.filter(pk__in=[task.pk for task in tasks]).update(swept_at=timezone.now())
    return _read_newest(reader, tasks, until_known=False)


def _tasks(reader: Reader) -> QuerySet[Task]:
    return Task.objects.filter(credential=reader.credential).exclude(arize_id="")


def _read_newest(reader: Reader, tasks: "QuerySet[Task] | list[Task]", *, until_known: bool) -> int:
    changed = 0
    for task, started, page in reader.each(_paid(reader, tasks), _first_page(reader)):
        if not isinstance(page, ArizeError):
            changed += _record_newest(reader, task, page, started, until_known=until_known)
        # Also after a fault: a task that always fails must not keep the others waiting.
        Task.objects.filter(pk=task.pk).update(runs_read_at=timezone.now())
    return changed


def _record_newest(reader: Reader, task: Task, page: Page[WireRun], started: datetime, *, until_known: bool) -> int:
    reaches_back = not until_known or task.runs_read_at is None or _holds_a_known_one(task, page)
    changed = record_readings([Reading(task, page.items, started)])
    if not reaches_back:
        changed += _read_older(reader, task, page)
    Task.objects.filter(pk=task.pk).update(runs_read_to=task.last_run_at)
    return changed


def _read_older(reader: Reader, task: Task, page: Page[WireRun]) -> int:
    """Further pages, until one holds a run that was there at the last reading."""
    changed = 0
    seen: set[str] = set()
    while page.next_cursor and page.next_cursor not in seen and len(seen) < MOST_PAGES and reader.spend():
        seen.add(page.next_cursor)
        started = timezone.now()
        answer = reader.call(
            lambda at=page.next_cursor: reader.client.list_runs(task.arize_id, cursor=at)  # type: ignore[misc]
        )
        if isinstance(answer, ArizeError):
            break
        page = answer
        is_known = _holds_a_known_one(task, page)
        changed += record_readings([Reading(task, page.items, started)])
        if is_known:
            break
    return changed


def _holds_a_known_one(task: Task, page: Page[WireRun]) -> bool:
    """Known since the last list, not by a single look at one run."""
    ids = [wire.id for wire in page.items]
    known = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=ids)
    return known.filter(first_seen_at__lte=task.runs_read_at).exists()


def _first_page(reader: Reader) -> Callable[[Task], Page[WireRun]]:
    return lambda task: reader.client.list_runs(task.arize_id)


def _paid(reader: Reader, items: Iterable[T], *, keep_a_third: bool = False) -> Iterator[T]:
    """The items, one call of the ceiling taken for each, until there is none left."""
    for item in items:
        if not reader.spend(keep_a_third=keep_a_third):
            return
        yield item
