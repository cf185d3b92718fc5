"""Writing down how a cancellation ended: the row, the run as it was seen and the audit row are one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from taskruns.audit import Actor, EventType, append, compose
from taskruns.models import AuditEvent, Cancellation, Outcome, Run, Team
from taskruns.services.remote_acts import writing_outcome
from taskruns.services.runs.observations import observe, observe_gone

from .answer import Verdict


@dataclass(slots=True)
class End:
    """What became of one cancellation, on its way into the database. `run` is the run before it was observed."""

    cancellation: Cancellation
    verdict: Verdict
    by: Actor
    run: Run = field(init=False)
    before: str = ""
    has_changed: bool = False  # the run, by what was seen of it
    is_written: bool = False  # False: somebody else has closed the cancellation meanwhile


def close(cancellation: Cancellation, verdict: Verdict, *, by: Actor) -> bool:
    """Write the verdict, unless somebody else has closed the cancellation meanwhile (then False).

    Closes on the state that was read (`cancellation.outcome`): open, or `unknown` for a truth that came later.
    Raises OutcomeNotWritten: the sweep will find the end and write it.
    """
    with writing_outcome(EventType.RUN_CANCEL):
        end = End(cancellation, verdict, by)
        write_ends([end])
        record_ends([end])
    return end.is_written


def write_ends(ends: Sequence[End]) -> None:
    """Runs as they were seen, and cancellations as they ended.

    Part of a transaction that goes on with `record_ends`. In one order, so that two workers cannot lock each other out.
    """
    locked = Run.objects.select_for_update(of=("self",), no_key=True).select_related("task__credential", "team")
    wanted = locked.filter(pk__in=[end.cancellation.run_id for end in ends]).order_by("task_id", "pk")
    runs = {run.pk: run for run in wanted}
    for end in ends:
        end.run = runs[end.cancellation.run_id]
        end.before = end.run.status
        end.has_changed = _observe(end.run, end.verdict)
        end.is_written = _write(end.cancellation, end.verdict)


def record_ends(ends: Sequence[End]) -> None:
    """The teams' boards and the audit rows: the last statements of the transaction."""
    for team_id in sorted({end.run.team_id for end in ends if end.is_written or end.has_changed}):
        Team.bump(team_id)
    append([_row(end) for end in ends if end.is_written and end.verdict.outcome is not Outcome.OPEN])


def _row(end: End) -> AuditEvent:
    return compose(
        EventType.RUN_CANCEL,
        end.verdict.outcome.value,
        by=end.by,
        team=end.run.team,
        run=end.run,
        operation_id=end.cancellation.pk,
        details=_details(end.cancellation, end.verdict, end.before),
    )


def _observe(run: Run, verdict: Verdict) -> bool:
    if verdict.seen_since is None:
        return False
    if verdict.seen is not None:
        return observe(run, verdict.seen, verdict.seen_since)
    return verdict.gone and observe_gone(run, verdict.seen_since)


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
    if cancellation.batch is not None:
        details["batch_id"] = str(cancellation.batch_id)
        details |= {"stop": str(cancellation.batch.stop_id)} if cancellation.batch.stop_id else {}
    if verdict.seen is not None:
        details |= {
            "status_after": verdict.seen.status.value,
            "num_successes": verdict.seen.num_successes,
            "num_errors": verdict.seen.num_errors,
            "num_skipped": verdict.seen.num_skipped,
        }
    return details
