"""Cancels and starts by scripts, done like those of people: audit row first, at most one POST.

A run or task that the mirror does not know, or knows from another key, is first read with the token's key: a token
reaches only what its key sees.
"""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from django.db.models import CharField, TextField, UUIDField
from django.utils import timezone

from taskruns.arize.errors import ArizeError, Unreadable
from taskruns.arize.triggers import Wanted
from taskruns.arize.wire import WireRun, WireTask
from taskruns.audit import Actor
from taskruns.models import Cancellation, Credential, Outcome, Run, Task
from taskruns.models.prepared import Prepared, Slot
from taskruns.services import cancellations, triggers
from taskruns.services.cancellations import CancelResult, wait_for
from taskruns.services.mirror.tasks import record_listed
from taskruns.services.remote_acts import ArizeIsSlow
from taskruns.services.runs.observations import fits_an_index
from taskruns.services.triggers import TriggerResult

from . import places
from .passing import parsed, record_run
from .reads import TOO_SOON, Forwarded, NoRoom, forward, spend

# A second request waits while the first is younger than this: Arize usually answers in time.
YOUNG = 1.0  # seconds
# A POST with its re-read takes at most 38 s, and load balancers give up after 60.
LONGEST_FOLLOW = 25.0  # seconds
R = TypeVar("R")
_MINE = {
    "team": Slot("team", UUIDField()),
    "endpoint": Slot("endpoint", CharField()),
    "arize_id": Slot("arize_id", TextField()),
}


@dataclass(frozen=True, slots=True)
class CancelEnd:
    """The outcome of a cancel, even if another request sent it.

    `outcome` OPEN: Arize accepted it (`is_accepted`) and the run is stopping, or it is not known yet. `run`: as the
    mirror has it now. `seen`: as Arize last showed it for this cancel. `http_status`: of the answer to the first
    request, if this one joined.
    """

    outcome: Outcome
    run: Run
    explanation: str = ""
    is_accepted: bool = False
    seen: WireRun | None = None
    error: ArizeError | None = None
    http_status: int | None = None


class _Held:
    def __init__(self, *, is_taken: bool) -> None:
        self._is_taken = is_taken

    def take(self) -> bool:
        return self._is_taken


def cancel(key: Credential, arize_id: str, *, by: Actor, reason: str) -> tuple[CancelResult, Run] | Forwarded:
    """Cancel one run, or return Arize's answer if the key does not see it. If the result is queued, wake the worker.

    Raises NoRoom and CannotConnect (nothing was sent), ArizeError (the run could not be read, nothing was sent), and
    what `cancellations.cancel` raises.
    """
    with places.of_scripts.place(is_read=False) as is_taken:
        run = _known(_run(), key, arize_id)
        if run is None or run.task.credential_id != key.pk:
            if not is_taken:
                raise NoRoom(TOO_SOON, is_share=False)  # the worker would use the key of the task
            found = _read_run(key, arize_id)
            if isinstance(found, Forwarded):
                return found
            run = found
        if cancellations.is_needed(run):
            spend(key)
        held = _Held(is_taken=is_taken)
        return cancellations.cancel(run, by=by, reason=reason, place=held, key=key), run


def end_of(result: CancelResult, run: Run) -> CancelEnd:
    """Wait for the outcome if another request or the worker sends the cancel. Holds no place, but few may wait long."""
    if result.outcome is not Outcome.JOINED and not result.is_queued:
        if result.seen is None:
            run.refresh_from_db()
        return CancelEnd(
            result.outcome,
            run,
            result.explanation,
            is_accepted=result.outcome is Outcome.OPEN,
            seen=result.seen,
            error=result.error,
        )
    row = _followed(result.holder) if result.holder is not None else None
    run.refresh_from_db()
    if row is None:
        return CancelEnd(Outcome.NOT_NEEDED, run)
    return CancelEnd(
        Outcome(row.outcome),
        run,
        row.explanation,
        is_accepted=row.stopping_since is not None,
        http_status=row.answer.get("http_status"),
    )


def trigger(key: Credential, task: Task, *, wanted: Wanted, by: Actor) -> TriggerResult:
    """Start a run. Raises NoRoom (nothing was recorded or sent), and what `triggers.trigger` raises."""
    with places.of_scripts.place(is_read=False) as is_taken:
        if not is_taken:
            raise NoRoom(TOO_SOON, is_share=False)
        spend(key)
        held = _Held(is_taken=True)
        try:
            return triggers.trigger(task, operation=uuid.uuid4(), wanted=wanted, by=by, place=held, key=key)
        except ArizeIsSlow:
            raise NoRoom(TOO_SOON, is_share=False) from None


def find_task(key: Credential, arize_id: str) -> Task | Forwarded:
    """The task that the key sees, or Arize's answer that says why not. Raises like `cancel`."""
    task = _known(_task(), key, arize_id)
    if task is not None and task.credential_id == key.pk:
        return task
    with places.of_scripts.place(is_read=True) as is_taken:
        if not is_taken:
            raise NoRoom(TOO_SOON, is_share=False)
        forwarded = forward(key, ["tasks", arize_id])
    if forwarded.answer.status != 200:
        return forwarded
    wire = WireTask.from_json(parsed(forwarded.answer.body))
    if wire.id != arize_id:
        raise Unreadable(status=200)
    record_listed(key, [wire])
    task = _known(_task(), key, arize_id)
    if task is None:
        raise Unreadable(status=200)
    return task


def as_read(run: Run) -> dict[str, Any]:
    """The run as Arize last gave it, or as much of it as is known."""
    raw: Any = None
    with suppress(ValueError):
        raw = parsed(run.as_read.encode())
    if isinstance(raw, dict) and raw.keys() - {"id"}:
        return raw
    return {"id": run.arize_id, "task_id": run.task.arize_id or None, "status": run.raw_status or run.status}


def _known(rows: Prepared[R], key: Credential, arize_id: str) -> R | None:
    if "\0" in arize_id or not fits_an_index(arize_id):
        return None
    return next(iter(rows.rows(team=key.team_id, endpoint=key.endpoint, arize_id=arize_id)), None)


@cache
def _run() -> Prepared[Run]:
    return Prepared(Run.objects.select_related("task").filter(**_MINE))


@cache
def _task() -> Prepared[Task]:
    return Prepared(Task.objects.filter(**_MINE))


def _read_run(key: Credential, arize_id: str) -> Run | Forwarded:
    forwarded = forward(key, ["task-runs", arize_id])
    if forwarded.answer.status != 200:
        return forwarded
    run = record_run(key, arize_id, WireRun.from_json(parsed(forwarded.answer.body)), forwarded.started)
    if run is None:
        raise Unreadable(status=200)
    return Run.objects.select_related("task").get(pk=run.pk)


def _followed(holder: Cancellation) -> Cancellation | None:
    """The first request's cancellation, with its outcome if it has one in time."""
    age = (timezone.now() - holder.requested_at).total_seconds()
    row = wait_for(holder.pk, seconds=min(YOUNG, max(0.0, YOUNG - age)))
    if row is None or row.outcome != Outcome.OPEN or row.stopping_since is not None:
        return row
    with places.of_scripts.follow() as may_wait:
        return wait_for(holder.pk, seconds=LONGEST_FOLLOW) if may_wait else row
