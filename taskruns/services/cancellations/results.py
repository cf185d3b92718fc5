"""Writes the outcome of a cancel: the cancellation, the run as Arize showed it and the audit row in one transaction."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.utils import timezone

from taskruns.arize.errors import RateLimited, Unauthorized
from taskruns.audit import Actor, EventType, append, compose
from taskruns.models import CANCEL_FACTS, AuditEvent, Cancellation, Outcome, Run, Team
from taskruns.models.prepared import Prepared, numbered, numbered_slots
from taskruns.models.runs import ACTIVE
from taskruns.services.credentials.client import count
from taskruns.services.credentials.health import note_rejected
from taskruns.services.remote_acts import outcome_is_written, writing_outcome
from taskruns.services.runs.facts import update_cancelled
from taskruns.services.runs.observations import observe, observe_gone

from .answer import Answer
from .waiting import tell_waiting

_ACTIVE = {status.value for status in ACTIVE}
# A POST with its re-read takes at most 38 s. Later the run shows what the POST did, also after a crash.
LONGEST_SEND = timedelta(seconds=45)
SENDER = Actor.job("cancels")


@dataclass(slots=True)
class Result:
    """One cancellation with its answer, to be written. `run` is the run as it was before."""

    cancellation: Cancellation
    answer: Answer
    by: Actor
    run: Run = field(init=False)
    before: str = ""
    has_changed: bool = False  # the answer changed the run
    is_written: bool = False  # False if another worker closed the cancellation first


def learn_of_key(run: Run, answer: Answer) -> None:
    """Count the calls, and note if Arize rejected the key."""
    credential, error = run.task.credential, answer.error
    if credential is None:
        return
    count(credential, calls=answer.calls, limited=int(isinstance(error, RateLimited)))
    if isinstance(error, Unauthorized):
        with outcome_is_written("rejection_not_noted", key=credential.pk):
            note_rejected(credential, sentence=error.sentence, by=SENDER)


def close(cancellation: Cancellation, answer: Answer, *, by: Actor) -> Answer | None:
    """Write the answer's outcome. Returns the answer as it counts, or None if another worker closed the cancellation
    first.

    The UPDATE requires the outcome that was read (`cancellation.outcome`): open, or `unknown`, which a later answer may
    replace. Raises OutcomeNotWritten; the sweep then finds and writes the outcome.
    """
    with writing_outcome(EventType.RUN_CANCEL):
        result = Result(cancellation, answer, by)
        write_results([result])
        record_results([result])
    tell_waiting()
    return result.answer if result.is_written else None


def write_results(results: Sequence[Result]) -> None:
    """Write the runs as Arize showed them and the outcomes of the cancellations.

    The caller's transaction must end with `record_results`. Tasks are written in the order of their ids, too.
    """
    runs = locked_runs(result.cancellation.run_id for result in results)
    for result in results:
        result.run = runs[result.cancellation.run_id]
    for result in sorted(results, key=lambda it: it.run.task_id):
        result.before = result.run.status
        result.answer = _credited(result.cancellation, result.answer, result.run)
        result.has_changed = _observe(result.run, result.answer)
        result.is_written = _write(result.cancellation, result.answer)
    update_cancelled(runs)


def locked_runs(run_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Run]:
    """The runs, locked in the order of their ids, as everywhere: otherwise two workers could wait for each other."""
    ids = set(run_ids)
    return {run.pk: run for run in _locked(len(ids)).rows(**numbered(ids))} if ids else {}


@cache
def _locked(number: int) -> Prepared[Run]:
    """This number of runs, with what an audit row and a call need."""
    locked = Run.objects.select_for_update(of=("self",), no_key=True).select_related("task__credential", "team")
    return Prepared(locked.filter(pk__in=numbered_slots(number)).order_by("pk"))


def record_results(results: Sequence[Result]) -> None:
    """Bump the boards, then write the audit rows. Must be the last statements of the transaction."""
    for team_id in sorted({result.run.team_id for result in results if result.is_written or result.has_changed}):
        Team.bump(team_id)
    append([_row(result) for result in results if result.is_written and result.answer.outcome is not Outcome.OPEN])


def _row(result: Result) -> AuditEvent:
    return compose(
        EventType.RUN_CANCEL,
        result.answer.outcome.value,
        by=result.by,
        team=result.run.team,
        run=result.run,
        operation_id=result.cancellation.pk,
        details=_details(result.cancellation, result.answer, result.before),
    )


def _observe(run: Run, answer: Answer) -> bool:
    if answer.seen_since is None:
        return False
    if answer.seen is not None:
        return observe(run, answer.seen, answer.seen_since)
    return answer.gone and observe_gone(run, answer.seen_since)


def _credited(cancellation: Cancellation, answer: Answer, run: Run) -> Answer:
    """The answer as it counts for this cancel: a re-read shows that the run is cancelled, not who did it. `run`: as it
    was before.

    It was not this cancel if the run was seen active after its POST, or if another cancel of the run is confirmed,
    unless the run was active again after that one. While another one is being sent, this is not known yet.
    """
    if answer.outcome is not Outcome.CONFIRMED or "reread" not in answer.details:
        return answer
    others = Cancellation.objects.filter(run=cancellation.run_id).exclude(pk=cancellation.pk)
    confirmed = others.filter(outcome=Outcome.CONFIRMED)
    if (at := _last_active(run)) is not None:
        confirmed = confirmed.filter(closed_at__gte=at)
    if _went_on_after(cancellation, run) or confirmed.exists():
        return replace(answer, outcome=Outcome.ALREADY_CANCELLED)
    if others.filter(outcome=Outcome.OPEN, posted_at__gt=timezone.now() - LONGEST_SEND).exists():
        return replace(answer, outcome=Outcome.UNKNOWN)
    return answer


def _went_on_after(cancellation: Cancellation, run: Run) -> bool:
    """Whether the run was seen active when the POST must have had its effect. A stopping run may stay active."""
    if cancellation.stopping_since is None and cancellation.outcome == Outcome.UNKNOWN:
        if cancellation.answer.get("reread") in _ACTIVE:
            return True
    elif cancellation.stopping_since is not None and cancellation.outcome == Outcome.OPEN:
        return False
    last_active = _last_active(run)
    sent = cancellation.posted_at or cancellation.requested_at
    return last_active is not None and last_active >= (cancellation.closed_at or sent + LONGEST_SEND)


def _last_active(run: Run) -> datetime | None:
    """When it was last seen active."""
    return run.observed_at if run.is_active else run.last_active_at


def _write(cancellation: Cancellation, answer: Answer) -> bool:
    if answer.outcome is Outcome.UNKNOWN and cancellation.outcome == Outcome.UNKNOWN and not answer.gone:
        return False  # nothing new
    now = timezone.now()
    read = {"outcome": cancellation.outcome, "stopping_since": cancellation.stopping_since}
    rows = Cancellation.objects.filter(pk=cancellation.pk, **read)
    if cancellation.posted_at is None:
        rows = rows.filter(posted_at=None)  # not if a worker has just begun to send it
    if answer.outcome is Outcome.OPEN:
        if not rows.filter(stopping_since=None).update(stopping_since=now, answer=answer.details):
            return False
        cancellation.stopping_since, cancellation.answer = now, answer.details
        return True
    return bool(
        rows.update(
            outcome=answer.outcome,
            closed_at=now,
            explanation=answer.explanation,
            followed=not (CANCEL_FACTS[answer.outcome].is_final or answer.gone),
            answer=cancellation.answer | answer.details,
        )
    )


def _details(cancellation: Cancellation, answer: Answer, before: str) -> dict[str, Any]:
    details: dict[str, Any] = {"status_before": before, **cancellation.answer, **answer.details}
    if cancellation.batch is not None:
        details["batch_id"] = str(cancellation.batch_id)
        details |= {"stop": str(cancellation.batch.stop_id)} if cancellation.batch.stop_id else {}
    if answer.seen is not None:
        details |= {
            "status_after": answer.seen.status.value,
            "num_successes": answer.seen.num_successes,
            "num_errors": answer.seen.num_errors,
            "num_skipped": answer.seen.num_skipped,
        }
    return details
