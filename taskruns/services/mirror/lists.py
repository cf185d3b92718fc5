"""Reading runs: the active ones, those of tasks that moved or are new, and a rolling sweep over the rest.

`last_run_at` is only a hint (Arize does not say whether it moves at the start or the end of a run), hence the sweep.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import ArizeError, NotFound, RateLimited, Unauthorized
from taskruns.arize.wire import Page, WireRun
from taskruns.models import Cancellation, Outcome, Run, Status, Task, Team
from taskruns.models.runs import STILL_LISTED
from taskruns.services import retention
from taskruns.services.first_contact import unread_tasks
from taskruns.services.runs import Reading, record_gone, record_observation, record_readings

from .budget import Kind
from .claims import ACTIVE, WATCHED, is_watched
from .reader import Reader

T = TypeVar("T")

SWEEP_CALLS_PER_MINUTE = 10
# How far back "newest until a known one" walks; older ones are read on demand.
MOST_PAGES = 10
# A task whose list fails is one among many: it must not cost calls in every round.
FAILED_WAITS = timedelta(seconds=30)
# Runs with a status that no one here knows may have ended, and there may be many: a few are read again now and then.
UNKNOWN_EVERY = timedelta(minutes=3)
UNKNOWN_AT_ONCE = 10
# Of many confirmed cancels those are looked at that there is time for; lists tell of the others.
CHECKED_AFTER = timedelta(seconds=10)
CHECKED_FOR = timedelta(minutes=5)
CHECKED_AT_ONCE = 5
# How often open boards are told of progress, beside what changes anyway.
TOLD_EVERY = timedelta(seconds=2)


def read_active(reader: Reader, *, everything: bool) -> int:
    """Two or more active runs of a task cost one list page; a single one, and what the page left out, one call each.

    The rounds of a first contact follow each other fast even when nobody looks: then only those are read whose time
    has come.
    """
    runs = Run.objects.filter(team=reader.credential.team_id, rank=1, task__credential=reader.credential)
    is_chain = reader.credential.first_contact_done_at is None
    if is_chain and not everything and not is_watched(reader.credential):
        runs = runs.filter(observed_at__lte=timezone.now() - ACTIVE + WATCHED)
    groups: dict[Task | Run, list[Run]] = defaultdict(list)
    for run in runs.select_related("task").order_by("observed_at"):
        # Runs of a nameless task have no list.
        groups[run.task if run.task.arize_id else run].append(run)
    changed, left_out = 0, []
    # The one that was not read for longest comes first, whichever way it is read.
    for group, started, answer in reader.each(_paid(reader, groups.values(), Kind.ACTIVE), _ask_for(reader)):
        if isinstance(answer, Page):
            changed += record_readings([Reading(group[0].task, answer.items, started)])
            _note_fault(group[0].task, answer)
            listed = {wire.id for wire in answer.items}
            left_out += [run for run in group if run.arize_id not in listed]
        elif len(group) > 1:
            _note_fault(group[0].task, answer)
            left_out += group if isinstance(answer, NotFound) else []
        else:
            changed += _record_single(group[0], answer, started)
    return changed + _read_single(reader, left_out)


def read_unknown(reader: Reader) -> int:
    """Runs of an unknown status that no list has told for a while, those read longest ago first."""
    now, before = timezone.now(), reader.credential.tasks_read_at
    if before is not None and _turn(before) == _turn(now):
        return 0
    team = reader.credential.team_id
    runs = Run.objects.filter(team=team, status=Status.UNKNOWN, task__credential=reader.credential)
    waiting = runs.filter(observed_at__lte=now - UNKNOWN_EVERY).select_related("task").order_by("observed_at")
    return _read_single(reader, list(waiting[:UNKNOWN_AT_ONCE]))


def read_confirmed(reader: Reader) -> int:
    """Runs that Arize said were cancelled by a press here: each is looked at once more, a few in a round.

    No list of active runs would ever tell that one goes on in spite of Arize's word.
    """
    now, credential = timezone.now(), reader.credential
    confirmed = Cancellation.objects.filter(outcome=Outcome.CONFIRMED, run__task__credential=credential)
    lately = confirmed.filter(closed_at__gt=now - CHECKED_FOR, closed_at__lte=now - CHECKED_AFTER)
    unseen = lately.filter(run__status=Status.CANCELLED, run__observed_at__lte=F("closed_at"))
    presses = unseen.select_related("run__task").order_by("closed_at")[:CHECKED_AT_ONCE]
    return _read_single(reader, [press.run for press in presses])


def _turn(at: datetime) -> int:
    return int(at.timestamp() // UNKNOWN_EVERY.total_seconds())


def _read_single(reader: Reader, runs: Iterable[Run]) -> int:
    changed = 0
    paid = _paid(reader, runs, Kind.ACTIVE)
    for run, started, seen in reader.each(paid, lambda run: reader.client.get_run(run.arize_id)):
        changed += _record_single(run, seen, started)
    return changed


def _ask_for(reader: Reader) -> Callable[[list[Run]], Page[WireRun] | WireRun]:
    """For active runs of one task: their list if there are several."""
    client = reader.client
    return lambda runs: client.get_run(runs[0].arize_id) if len(runs) == 1 else client.list_runs(runs[0].task.arize_id)


def _record_single(run: Run, seen: WireRun | ArizeError, started: datetime) -> int:
    if isinstance(seen, NotFound):
        return record_gone(run, started)
    if isinstance(seen, ArizeError):
        _note_fault(run.task, seen)
        return 0
    return record_observation(run, seen, started)


def read_moved(reader: Reader) -> int:
    """Tasks whose `last_run_at` moved: newest runs until a known one."""
    moved = Q(last_run_at__isnull=False) & (Q(runs_read_to=None) | ~Q(last_run_at=F("runs_read_to")))
    waits = Q(runs_failed_at__gt=timezone.now() - FAILED_WAITS)
    tasks = _tasks(reader).filter(moved, STILL_LISTED, runs_read_at__isnull=False).exclude(waits)
    return _read_newest(reader, _paid(reader, tasks.order_by("runs_read_at", "pk")), until_known=True)


def read_new(reader: Reader) -> int:
    """First contact: the newest page of tasks that were never read, those that ran last first."""
    tasks = unread_tasks(reader.credential).order_by(F("last_run_at").desc(nulls_last=True), "pk")
    return _read_newest(reader, _paid(reader, tasks, Kind.FIRST), until_known=False)


def read_oldest(reader: Reader, *, everything: bool) -> int:
    """The rolling sweep: the newest page of the tasks that were not read for longest."""
    minute_ago = timezone.now() - timedelta(minutes=1)
    swept = _tasks(reader).filter(swept_at__gt=minute_ago).count()
    share = 1_000_000 if everything else max(0, SWEEP_CALLS_PER_MINUTE - swept)
    # The lists of a key leave out what was deleted in Arize.
    waiting = _tasks(reader).filter(STILL_LISTED, runs_read_at__lte=timezone.now() - timedelta(seconds=5))
    tasks = list(waiting.order_by("runs_read_at", "pk")[:share])
    Task.objects.filter(pk__in=[task.pk for task in tasks]).update(swept_at=timezone.now())
    return _read_newest(reader, _paid(reader, tasks), until_known=False)


def _tasks(reader: Reader) -> QuerySet[Task]:
    return Task.objects.filter(credential=reader.credential).exclude(arize_id="")


def _read_newest(reader: Reader, tasks: Iterator[Task], *, until_known: bool) -> int:
    changed = 0
    told_at = timezone.now()
    for task, started, page in reader.each(tasks, _first_page(reader)):
        if not isinstance(page, ArizeError):
            changed += _record_newest(reader, task, page, started, until_known=until_known)
        _note_read(task, page)
        if task.runs_read_at is None and timezone.now() - told_at > TOLD_EVERY:
            Team.bump(task.team_id)
            told_at = timezone.now()
    return changed


def _note_read(task: Task, page: Page[WireRun] | ArizeError) -> None:
    """Also after a fault: a task that always fails must not keep the others waiting."""
    changes: dict[str, datetime | None] = {"runs_read_at": timezone.now()}
    if not isinstance(page, ArizeError):
        changes["runs_read_to"] = task.last_run_at
    Task.objects.filter(pk=task.pk).update(**changes)
    _note_fault(task, page)


def _note_fault(task: Task, answer: object) -> None:
    """That reading the runs of a task failed, or works again. Its rows say so.

    A rejected key and a throttled one are told of the key.
    """
    if isinstance(answer, Unauthorized | RateLimited):
        return
    failed = isinstance(answer, ArizeError)
    if not failed and task.runs_failed_at is None:
        return
    is_news = failed == (task.runs_failed_at is None)
    task.runs_failed_at = timezone.now() if failed else None
    Task.objects.filter(pk=task.pk).update(runs_failed_at=task.runs_failed_at)
    if is_news:
        Team.bump(task.team_id)


def _record_newest(reader: Reader, task: Task, page: Page[WireRun], started: datetime, *, until_known: bool) -> int:
    reaches_back = not until_known or _reaches_back(task, page)
    changed = record_readings([Reading(task, page.items, started)])
    return changed if reaches_back else changed + _read_older(reader, task, page)


def _read_older(reader: Reader, task: Task, page: Page[WireRun]) -> int:
    """Further pages, until one holds a run that was there at the last reading."""
    changed = 0
    seen: set[str] = set()
    ids = {wire.id for wire in page.items}
    while page.next_cursor and page.next_cursor not in seen and len(seen) < MOST_PAGES and reader.spend():
        seen.add(page.next_cursor)
        started = timezone.now()
        answer = reader.call(
            lambda at=page.next_cursor: reader.client.list_runs(task.arize_id, cursor=at)  # type: ignore[misc]
        )
        if isinstance(answer, ArizeError):
            break
        page = answer
        reaches_back = _reaches_back(task, page)
        changed += record_readings([Reading(task, page.items, started)])
        found = {wire.id for wire in page.items}
        if reaches_back or found <= ids:
            break
        ids |= found
    return changed


def _reaches_back(task: Task, page: Page[WireRun]) -> bool:
    """Holds one that is known since the last list, not by a single look at one run, or one too old to be kept."""
    if any(retention.is_past(wire) for wire in page.items):
        return True
    ids = [wire.id for wire in page.items]
    known = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=ids)
    return known.filter(first_seen_at__lte=task.runs_read_at).exists()


def _first_page(reader: Reader) -> Callable[[Task], Page[WireRun]]:
    return lambda task: reader.client.list_runs(task.arize_id)


def _paid(reader: Reader, items: Iterable[T], kind: Kind = Kind.OTHER) -> Iterator[T]:
    """The items, one call of the ceiling taken for each, until there is none left."""
    for item in items:
        if not reader.spend(kind):
            return
        yield item
