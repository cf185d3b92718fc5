"""Reads runs that may change: active ones, those with an unknown status, and those whose cancel was confirmed."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from django.db.models import F
from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, NotFound, RateLimited, Unauthorized
from taskruns.arize.paging import Page
from taskruns.arize.wire import RunStatus, WireRun
from taskruns.models import Cancellation, Outcome, Run, Status, Task
from taskruns.services.runs.observations import Reading, record_gone, record_observation, record_readings

from .budget import Kind
from .first_contact import unread_tasks
from .reader import Reader
from .schedule import ACTIVE_PACE, ATTENTION_PACE, team_has_attention
from .staleness import FAILED_WAITS, failed_lately, note_answer

# A run whose status the panel does not know may have ended. There may be many, so only a few are read at a time.
UNKNOWN_EVERY = timedelta(minutes=3)
UNKNOWN_AT_ONCE = 10
# Re-check only a few confirmed cancels per round; list pages cover the rest.
CHECKED_AFTER = timedelta(seconds=10)
CHECKED_FOR = timedelta(minutes=5)
CHECKED_AT_ONCE = 5


def read_active(reader: Reader, *, everything: bool) -> int:
    """Two or more active runs of a task cost one list page. A single one costs one call, as does each run that the page
    left out.

    During first contact, rounds follow each other fast even if no board is open. Then only runs that are due are read.
    """
    runs = Run.objects.filter(team=reader.credential.team_id, rank=1, task__credential=reader.credential)
    is_first_contact = reader.credential.first_contact_done_at is None
    if is_first_contact and not everything and not team_has_attention(reader.credential):
        runs = runs.filter(observed_at__lte=timezone.now() - ACTIVE_PACE + ATTENTION_PACE)
    groups: dict[Task | Run, list[Run]] = defaultdict(list)
    if not everything and not reader.credential.failures:
        # While Arize works for other runs, a run that fails must not use up their calls.
        runs = runs.exclude(look_failed_at__gt=timezone.now() - FAILED_WAITS)
    for run in runs.select_related("task").order_by("observed_at"):
        # Runs of a task without an Arize id cannot be listed.
        groups[run.task if run.task.arize_id else run].append(run)
    changed, left_out = 0, []
    # The run that was read longest ago comes first, by list page or by itself.
    for group, started, answer in reader.each(reader.paid(groups.values(), Kind.ACTIVE), _ask_for(reader)):
        if isinstance(answer, Page):
            changed += record_readings([Reading(group[0].task, answer.items, started)])
            note_answer(group[0].task, answer)
            listed = {wire.id for wire in answer.items}
            left_out += [run for run in group if run.arize_id not in listed]
        elif len(group) > 1:
            note_answer(group[0].task, answer)
            left_out += group if isinstance(answer, NotFound) else []
        else:
            changed += _record_single(group[0], answer, started)
    return changed + _read_single(reader, left_out)


def read_unknown(reader: Reader) -> int:
    """Runs with an unknown status that no list has shown for a while, those read longest ago first."""
    now, before = timezone.now(), reader.credential.tasks_read_at
    if before is not None and _period(before) == _period(now):
        return 0
    team = reader.credential.team_id
    runs = Run.objects.filter(team=team, status=Status.UNKNOWN, task__credential=reader.credential)
    waiting = runs.filter(observed_at__lte=now - UNKNOWN_EVERY).select_related("task").order_by("observed_at")
    return _read_single(reader, list(waiting[:UNKNOWN_AT_ONCE]))


def read_confirmed(reader: Reader) -> int:
    """Read each run once more whose cancel Arize confirmed, a few per round.

    Such a run is no longer active in the mirror. If Arize was wrong and it still runs, nothing else would notice.
    """
    now, credential = timezone.now(), reader.credential
    confirmed = Cancellation.objects.filter(outcome=Outcome.CONFIRMED, run__task__credential=credential)
    lately = confirmed.filter(closed_at__gt=now - CHECKED_FOR, closed_at__lte=now - CHECKED_AFTER)
    unchecked = lately.filter(run__status=Status.CANCELLED, run__observed_at__lte=F("closed_at"))
    oldest = unchecked.select_related("run__task").order_by("closed_at")[:CHECKED_AT_ONCE]
    return _read_single(reader, [cancellation.run for cancellation in oldest])


def _period(at: datetime) -> int:
    return int(at.timestamp() // UNKNOWN_EVERY.total_seconds())


def _read_single(reader: Reader, runs: Iterable[Run]) -> int:
    changed = 0
    paid = reader.paid(runs, Kind.ACTIVE)
    for run, started, seen in reader.each(paid, lambda run: reader.client.get_run(run.arize_id)):
        changed += _record_single(run, seen, started)
    return changed


def _ask_for(reader: Reader) -> Callable[[list[Run]], Page[WireRun] | WireRun]:
    """The call for active runs of one task: their list if there are several."""
    client = reader.client
    return lambda runs: client.get_run(runs[0].arize_id) if len(runs) == 1 else client.list_runs(runs[0].task.arize_id)


def _record_single(run: Run, seen: WireRun | ArizeError, started: datetime) -> int:
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


def read_active_unread(reader: Reader) -> int:
    """Read active runs below the newest page of a task. Only after first contact, because each task costs two calls."""
    tasks = Task.objects.filter(credential=reader.credential, active_unread=True).exclude(failed_lately())
    if unread_tasks(reader.credential).exists():
        return 0
    changed = 0
    wanted = ((task, status) for task in tasks.order_by("pk") for status in (RunStatus.RUNNING, RunStatus.PENDING))
    ask = reader.client.list_runs
    answers: dict[Task, list[Page[WireRun] | ArizeError]] = defaultdict(list)
    asked = reader.each(reader.paid(wanted, Kind.FIRST), lambda each: ask(each[0].arize_id, status=each[1]))
    for (task, _), started, answer in asked:
        if isinstance(answer, Page):
            changed += record_readings([Reading(task, answer.items, started)])
        if not isinstance(answer, BadRequest):  # 400: this server lacks the filter, but can still list the runs
            note_answer(task, answer)
        answers[task].append(answer)
        if len(answers[task]) == 2 and all(isinstance(each, Page | BadRequest) for each in answers[task]):
            Task.objects.filter(pk=task.pk).update(active_unread=False)
    return changed
