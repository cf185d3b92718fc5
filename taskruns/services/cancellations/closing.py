"""Writing down how a cancellation ended: the row, the run as it was seen and the audit row are one transaction."""

from typing import Any

from django.db import DatabaseError, transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import Cancellation, Outcome, Run, Team
from taskruns.services.runs import record_gone, record_observation

from .verdict import Verdict


class OutcomeNotWritten(Exception):
    """The cancel was sent, but its end could not be written. The sweep will find and close it."""


def close(cancellation: Cancellation, verdict: Verdict, *, by: Actor) -> bool:
    """Write the verdict, unless somebody else has closed the cancellation meanwhile (then False).

    Closes on the state that was read (`cancellation.outcome`): open, or `unknown` for a truth that came later.
    Raises OutcomeNotWritten.
    """
    try:
        return _close(cancellation, verdict, by)
    except DatabaseError as error:
        raise OutcomeNotWritten from error


@transaction.atomic(durable=True)
def _close(cancellation: Cancellation, verdict: Verdict, by: Actor) -> bool:
    run = Run.objects.select_related("task__credential", "team").get(pk=cancellation.run_id)
    before = run.status
    _observe(run, verdict)
    if not _write(cancellation, verdict):
        return False
    Team.bump(run.team_id)
    if verdict.outcome is not Outcome.OPEN:
        record(
            EventType.RUN_CANCEL,
            verdict.outcome.value,
            by=by,
            team=run.team,
            run=run,
            operation_id=cancellation.pk,
            details=_details(cancellation, verdict, before),
        )
    return True


def _observe(run: Run, verdict: Verdict) -> None:
    if verdict.seen_since is None:
        return
    if verdict.seen is not None:
        record_observation(run, verdict.seen, verdict.seen_since)
    elif verdict.gone:
        record_gone(run, verdict.seen_since)


def _write(cancellation: Cancellation, verdict: Verdict) -> bool:
    now = timezone.now()
    rows = Cancellation.objects.filter(pk=cancellation.pk, outcome=cancellation.outcome)
    if verdict.outcome is Outcome.OPEN:
        return bool(rows.filter(stopping_since=None).update(stopping_since=now, answer=verdict.details))
    is_final = verdict.outcome is not Outcome.UNKNOWN or verdict.gone
    return bool(
        rows.update(
            outcome=verdict.outcome,
            closed_at=now,
            explanation=verdict.explanation,
            followed=not is_final,
            answer=cancellation.answer | verdict.details,
        )
    )


def _details(cancellation: Cancellation, verdict: Verdict, before: str) -> dict[str, Any]:
    details: dict[str, Any] = {"status_before": before, **cancellation.answer, **verdict.details}
    if verdict.seen is not None:
        details |= {
            "status_after": verdict.seen.status.value,
            "num_successes": verdict.seen.num_successes,
            "num_errors": verdict.seen.num_errors,
            "num_skipped": verdict.seen.num_skipped,
        }
    return details
