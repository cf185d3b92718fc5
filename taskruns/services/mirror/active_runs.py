"""Reads runs that may change: active ones, those with an unknown status, and those whose cancel was confirmed."""

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import islice

from django.db.models import F, UUIDField
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError, NotFound, RateLimited, Unauthorized
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireRun
from taskruns.models import Cancellation, Credential, Outcome, Run, Status, Task
from taskruns.models.prepared import Prepared, Slot, TimeSlot
from taskruns.models.stamps import is_recent, long_ago
from taskruns.services.credentials.budget import Kind
from taskruns.services.runs.observations import record_gone, record_observation

from . import task_runs
from .reader import Reader
from .schedule import ACTIVE_PACE, ATTENTION_PACE, team_has_attention
from .staleness import FAILED_WAITS, note_answer

# A run whose status the panel does not know may have ended. There may be many, so only a few are read at a time.
UNKNOWN_EVERY = timedelta(minutes=3)
UNKNOWN_AT_ONCE = 10
# Re-check only a few confirmed cancels per round; list pages cover the rest.
CHECKED_AFTER = timedelta(seconds=10)
CHECKED_FOR = timedelta(minutes=5)
CHECKED_AT_ONCE = 5
FOR_SINGLE_READS = 1 / 5  # of the calls for active runs


def read_active(reader: Reader, *, everything: bool) -> int:
    """One list page for each task with active runs: the same single call as reading a run, but it also shows the task's
    new runs. A run that the page left out costs a call, as does each run whose task cannot be listed.

    During first contact, rounds follow each other fast even if no board is open. Then only runs that are due are read.
    """
    credential = reader.credential
    is_first_contact = credential.first_contact_done_at is None
    active = _active(
        only_due=is_first_contact and not everything and not team_has_attention(credential),
        # While Arize works for other runs, a run that fails must not use up their calls.
        is_patient=not everything and not credential.failures,
    )
    by_task: dict[Task, list[Run]] = defaultdict(list)
    alone = []
    for run in active.rows(team=credential.team_id, credential=credential.pk, now=timezone.now()):
        if _can_be_listed(run.task):
            by_task[run.task].append(run)
        else:
            alone.append(run)
    first = _pages_to_read_first(reader)
    changed = _read_pages(reader, dict(islice(by_task.items(), first)), alone)
    return changed + _read_pages(reader, dict(islice(by_task.items(), first, None)), [])


def _pages_to_read_first(reader: Reader) -> int:
    """Later pages get what the single reads leave. Without a share of their own, runs that no page shows would never be
    read while many tasks have active runs.
    """
    calls = reader.budget.available(Kind.ACTIVE)
    return max(1, calls - math.ceil(calls * FOR_SINGLE_READS))


def _read_pages(reader: Reader, by_task: dict[Task, list[Run]], alone: list[Run]) -> int:
    """Read the newest page of each task, then single runs: these, and those that their page left out."""
    changed = 0
    alone = [*alone]
    asked = reader.each(reader.paid(by_task, Kind.ACTIVE), partial(task_runs.newest_page, reader))
    for task, started, answer in asked:
        changed += task_runs.take_newest(reader, task, answer, started)
        shown = {wire.id for wire in answer.items} if isinstance(answer, Page) else set()
        if isinstance(answer, Page | NotFound):
            alone += [run for run in by_task[task] if run.arize_id not in shown]
    return changed + _read_single(reader, sorted(alone, key=lambda run: run.observed_at), Kind.ACTIVE)


@cache
def _active(*, only_due: bool, is_patient: bool) -> Prepared[Run]:
    """The run that was read longest ago comes first, by list page or by itself."""
    credential = Slot("credential", UUIDField())
    runs = Run.objects.filter(team=Slot("team", UUIDField()), rank=1, task__credential=credential)
    if only_due:
        runs = runs.filter(long_ago("observed_at", TimeSlot(), ACTIVE_PACE - ATTENTION_PACE))
    if is_patient:
        runs = runs.filter(long_ago("look_failed_at", TimeSlot(), FAILED_WAITS))
    return Prepared(runs.select_related("task").defer("as_read", "task__as_read").order_by("observed_at"))


def _can_be_listed(task: Task) -> bool:
    """Runs of a task without an Arize id cannot be listed. If the list has just failed, they are read singly too."""
    return bool(task.arize_id) and not is_recent(task.runs_failed_at, timezone.now(), FAILED_WAITS)


def read_unknown(reader: Reader) -> int:
    """Runs with an unknown status that no list has shown for a while, those read longest ago first."""
    now, before = timezone.now(), reader.credential.tasks_read_at
    if before is not None and _period(before) == _period(now):
        return 0
    team = reader.credential.team_id
    runs = Run.objects.filter(team=team, status=Status.UNKNOWN, task__credential=reader.credential)
    waiting = runs.filter(long_ago("observed_at", now, UNKNOWN_EVERY)).select_related("task").order_by("observed_at")
    return _read_single(reader, list(waiting[:UNKNOWN_AT_ONCE]), Kind.ACTIVE)


def note_unchecked(reader: Reader) -> None:
    """Note the runs whose cancel Arize confirmed and that nothing has shown since. List pages check them for free."""
    reader.unchecked = {run.arize_id: run.pk for run in _unchecked(reader.credential)}


def read_confirmed(reader: Reader) -> int:
    """Read a few runs once more whose cancel Arize confirmed and that no list page has shown since.

    Such a run is no longer active in the mirror. If Arize was wrong and it still runs, nothing else would notice.
    """
    if not reader.unchecked:
        return 0
    return _read_single(reader, _unchecked(reader.credential)[:CHECKED_AT_ONCE], Kind.LOOK)


def _unchecked(credential: Credential) -> list[Run]:
    rows = _lately_confirmed().rows(credential=credential.pk, now=timezone.now())
    return list({row.run_id: row.run for row in rows}.values())


@cache
def _lately_confirmed() -> Prepared[Cancellation]:
    """Those whose run nothing has shown since."""
    now, credential = TimeSlot(), Slot("credential", UUIDField())
    confirmed = Cancellation.objects.filter(outcome=Outcome.CONFIRMED, run__task__credential=credential)
    lately = confirmed.filter(closed_at__gt=now - CHECKED_FOR, closed_at__lte=now - CHECKED_AFTER)
    unchecked = lately.filter(run__status=Status.CANCELLED, run__observed_at__lte=F("closed_at"))
    waiting = unchecked.filter(long_ago("run__look_failed_at", now, FAILED_WAITS))
    columns = waiting.select_related("run__task").defer("run__as_read", "run__task__as_read")
    return Prepared(columns.order_by("closed_at"))


def _period(at: datetime) -> int:
    return int(at.timestamp() // UNKNOWN_EVERY.total_seconds())


def _read_single(reader: Reader, runs: Iterable[Run], kind: Kind) -> int:
    changed = 0
    for run, started, seen in reader.each(reader.paid(runs, kind), partial(_ask, reader.client)):
        changed += _record_single(reader, run, seen, started)
    return changed


def _ask(client: ArizeClient, run: Run) -> WireRun:
    return client.get_run(run.arize_id).only_if(run.arize_id)


def _record_single(reader: Reader, run: Run, seen: WireRun | ArizeError, started: datetime) -> int:
    reader.followed.note(run.arize_id, seen, started)
    if isinstance(seen, NotFound):
        return record_gone(run, started)
    if isinstance(seen, ArizeError):
        note_answer(run.task, seen)
        if not isinstance(seen, Unauthorized | RateLimited):
            Run.objects.filter(pk=run.pk).update(look_failed_at=timezone.now())
        return 0
    if run.look_failed_at is not None:
        Run.objects.filter(pk=run.pk).update(look_failed_at=None)
    return record_observation(run, seen, started)
