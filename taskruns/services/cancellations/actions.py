"""One cancel of a run, step by step.

1. In one short durable transaction, open a Cancellation (the database allows one open per run), read the run again
   under lock, note that it is sent now (`posted_at`), and record `requested`. If this cannot be committed, nothing is
   sent.
2. Outside any transaction, send one POST to Arize (`answer.py`).
3. In one short transaction, write the run as Arize showed it, the outcome, and its audit row (`results.py`).
After a crash between 1 and 3, the sweep closes the cancellation. So nothing reaches Arize without a committed row, and
no row stays without an outcome.
If too many requests already wait for Arize, step 1 leaves `posted_at` empty. The worker then does the rest
(`worker.py`).
"""

import uuid
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from django.db import transaction
from django.db.models import UUIDField

from taskruns.arize.errors import ArizeError
from taskruns.arize.wire import WireRun
from taskruns.audit import Actor, EventType, clean_line, record
from taskruns.models import LONGEST_REASON, Cancellation, Credential, Outcome, Run, Team
from taskruns.models.prepared import Prepared, Slot
from taskruns.services.remote_acts import AnyPlace, Place, after_sending, insert_first
from taskruns.services.runs.facts import update_cancelled

from .answer import ask_arize
from .results import close, learn_of_key, locked_runs


@dataclass(frozen=True, slots=True)
class CancelResult:
    """`outcome` OPEN: Arize accepted the cancel and the run is stopping. `explanation`: what Arize said about it.

    `is_queued`: nothing was sent yet; wake the worker (`jobs.wake_cancels`), which sends it.
    `holder`: the open cancellation that this one joined, with its batch; of a queued one, itself.
    `seen`: the run as Arize last showed it for this cancel. `error`: Arize's error to the POST, if any.
    """

    outcome: Outcome
    explanation: str = ""
    throttled: bool = False
    holder: Cancellation | None = None
    is_own: bool = False  # the holder was requested by the same person or token
    is_queued: bool = False
    seen: WireRun | None = None
    error: ArizeError | None = None


def is_needed(run: Run) -> bool:
    """Whether a cancel would probably send something: the run is active, and no cancel of it is open."""
    return run.is_active and not _open_ones().exists(run=run.pk)


def cancel(
    run: Run, *, by: Actor, reason: str = "", place: AnyPlace | None = None, key: Credential | None = None
) -> CancelResult:
    """Cancel one run. The caller has checked the person's right. Sends at most one POST.

    `place`: the caller's own, which the caller gives back. `key`: the one to send with, if not that of the run's task;
    without a free place, the worker sends with the task's.
    Raises DatabaseError if the request could not be recorded (nothing was sent), and OutcomeNotWritten if the outcome
    could not be recorded (it was sent).
    """
    with Place() if place is None else nullcontext(place) as held:
        line = clean_line(reason, LONGEST_REASON)
        opened = _open(run.pk, held, by=by, reason=line) or _open(run.pk, held, by=by, reason=line)
        opened = opened or _join(run.pk, by=by, reason=line)
        if isinstance(opened, CancelResult):
            return opened
        if opened.posted_at is None:
            return CancelResult(Outcome.OPEN, holder=opened, is_queued=True)
        if key is not None:
            opened.run.task.credential = key
        answer = ask_arize(opened.run)
    with after_sending(EventType.RUN_CANCEL):
        written = close(opened, answer, by=by)
        learn_of_key(opened.run, answer)
        if written is None:  # the sweep was faster
            stored = Cancellation.objects.get(pk=opened.pk)
            return CancelResult(Outcome(stored.outcome), stored.explanation)
    return CancelResult(written.outcome, written.explanation, written.throttled, seen=written.seen, error=written.error)


@transaction.atomic(durable=True)
def _open(run_id: uuid.UUID, place: AnyPlace, *, by: Actor, reason: str) -> Cancellation | CancelResult | None:
    """None if the cancel to join was closed while we waited for the lock of its run: try again.

    Not in the same transaction: elsewhere, the row is inserted before its run is locked.
    """
    previous = _previous().rows(run=run_id, most=1)
    new = Cancellation(run_id=run_id, person=by.person, token=by.token, person_label=by.label, reason=reason)
    opened = insert_first(new, rivals=Cancellation.objects.filter(run=run_id))
    # The constraint alone is not enough: before our insert, another cancel may have been sent and closed.
    run = locked_runs([run_id])[run_id]
    if opened is None and run.is_active and not _open_ones().exists(run=run_id):
        return None
    if opened is None:
        return _joined(run, by=by, reason=reason)
    if not run.is_active:
        opened.delete()
        return _note(run, Outcome.NOT_NEEDED, by=by, reason=reason, details={"status_before": run.status})
    opened.run = run
    if not place.take():
        opened.posted_at = None
        opened.save(update_fields=["posted_at"])
    update_cancelled([run.pk])
    Team.bump(run.team_id)
    record(
        EventType.RUN_CANCEL,
        "requested",
        by=by,
        team=run.team,
        run=run,
        operation_id=opened.pk,
        reason=reason,
        details=counts_now(run) | ({"previous_operation": str(previous[0])} if previous else {}),
    )
    return opened


@cache
def _open_ones() -> Prepared[Cancellation]:
    return Prepared(Cancellation.objects.filter(run=Slot("run", UUIDField()), outcome=Outcome.OPEN))


@cache
def _previous() -> Prepared[uuid.UUID]:
    """The run's cancels, the latest first."""
    earlier = Cancellation.objects.filter(run=Slot("run", UUIDField())).order_by("-requested_at")
    return Prepared(earlier.values_list("pk", flat=True))


@transaction.atomic(durable=True)
def _join(run_id: uuid.UUID, *, by: Actor, reason: str) -> CancelResult:
    return _joined(locked_runs([run_id])[run_id], by=by, reason=reason)


def _joined(run: Run, *, by: Actor, reason: str) -> CancelResult:
    holder = holder_of(run)
    details = {"previous_operation": str(holder.pk) if holder else None}
    noted = _note(run, Outcome.JOINED, by=by, reason=reason, details=details)
    is_own = holder is not None and _is_by(holder, by)
    return replace(noted, holder=holder, is_own=is_own)


def holder_of(run: Run) -> Cancellation | None:
    """The open cancellation of the run. If it was just closed, the latest."""
    earlier = Cancellation.objects.filter(run=run).select_related("batch", "person")
    return earlier.filter(outcome=Outcome.OPEN).first() or earlier.order_by("-requested_at").first()


def _is_by(cancellation: Cancellation, by: Actor) -> bool:
    if by.token is not None:
        return cancellation.token_id == by.token.pk
    return by.person is not None and cancellation.person_id == by.person.pk


def _note(run: Run, outcome: Outcome, *, by: Actor, reason: str, details: dict[str, Any]) -> CancelResult:
    """Record a cancel that sends nothing. It has an audit row, but no Cancellation."""
    record(
        EventType.RUN_CANCEL,
        outcome.value,
        by=by,
        team=run.team,
        run=run,
        operation_id=uuid.uuid4(),
        reason=reason,
        details=details,
    )
    return CancelResult(outcome)


def counts_now(run: Run) -> dict[str, Any]:
    """The run's status and counts before the cancel, for its `requested` row."""
    return {
        "status_before": run.status,
        "num_successes": run.num_successes,
        "num_errors": run.num_errors,
        "num_skipped": run.num_skipped,
    }
