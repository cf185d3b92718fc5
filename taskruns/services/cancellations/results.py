"""Writes the outcome of a cancel: the cancellation, the run as Arize showed it and the audit row in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.utils import timezone

from taskruns.audit import Actor, EventType, append, compose
from taskruns.models import CANCEL_FACTS, AuditEvent, Cancellation, Outcome, Run, Team
from taskruns.models.runs import ACTIVE
from taskruns.services.remote_acts import writing_outcome
from taskruns.services.runs.observations import observe, observe_gone

from .answer import Answer

_ACTIVE = {status.value for status in ACTIVE}


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


def close(cancellation: Cancellation, answer: Answer, *, by: Actor) -> bool:
    """Write the answer's outcome. False if another worker closed the cancellation first.

    The UPDATE requires the outcome that was read (`cancellation.outcome`): open, or `unknown`, which a later answer may
    replace. Raises OutcomeNotWritten; the sweep then finds and writes the outcome.
    """
    with writing_outcome(EventType.RUN_CANCEL):
        result = Result(cancellation, answer, by)
        write_results([result])
        record_results([result])
    return result.is_written


def write_results(results: Sequence[Result]) -> None:
    """Write the runs as Arize showed them and the outcomes of the cancellations.

    The caller's transaction must end with `record_results`. Runs are locked in a fixed order to avoid deadlocks.
    """
    locked = Run.objects.select_for_update(of=("self",), no_key=True).select_related("task__credential", "team")
    wanted = locked.filter(pk__in=[result.cancellation.run_id for result in results]).order_by("task_id", "pk")
    runs = {run.pk: run for run in wanted}
    for result in results:
        result.run = runs[result.cancellation.run_id]
        result.before = result.run.status
        result.answer = _credited(result.cancellation, result.answer)
        result.has_changed = _observe(result.run, result.answer)
        result.is_written = _write(result.cancellation, result.answer)


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


def _credited(cancellation: Cancellation, answer: Answer) -> Answer:
    """A re-read shows that the run is cancelled, not who did it.

    It was not this cancel if the run was seen active after its POST, or if another cancel of the run is confirmed.
    """
    if answer.outcome is not Outcome.CONFIRMED or "reread" not in answer.details:
        return answer
    was_active = cancellation.outcome == Outcome.UNKNOWN and cancellation.answer.get("reread") in _ACTIVE
    others = Cancellation.objects.filter(run=cancellation.run_id, outcome=Outcome.CONFIRMED).exclude(pk=cancellation.pk)
    if was_active or others.exists():
        return replace(answer, outcome=Outcome.ALREADY_CANCELLED)
    return answer


def _write(cancellation: Cancellation, answer: Answer) -> bool:
    now = timezone.now()
    rows = Cancellation.objects.filter(pk=cancellation.pk, outcome=cancellation.outcome)
    if answer.outcome is Outcome.OPEN:
        return bool(rows.filter(stopping_since=None).update(stopping_since=now, answer=answer.details))
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
