"""Writing down how a start ended: the row, the runs as they were seen and the audit row are one transaction."""

from datetime import timedelta

import structlog
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import Run, Trigger, TriggerOutcome
from taskruns.services.remote_acts import writing_outcome
from taskruns.services.runs.observations import Reading, record_readings

from .answer import Verdict

log = structlog.get_logger(__name__)

CRASHED_AFTER = timedelta(seconds=60)
SWEEPER = Actor.job("sweep")
CRASHED = "The panel was interrupted before it could write down what Arize answered."


def close(trigger: Trigger, verdict: Verdict, *, by: Actor) -> bool:
    """Write the verdict, unless it was closed meanwhile (then False); a truth that comes after `unknown` is written.

    Expects `trigger.task` with its team. Raises OutcomeNotWritten: the sweep will close it as unknown.
    """
    with writing_outcome(EventType.RUN_TRIGGER):
        return _close(trigger, verdict, by)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Close every start that a crash left without an end, as `unknown`: Arize cannot be asked what became of it.

    A run that did start is found by the mirror. The number of rows closed; safe to run twice at once.
    """
    crashed = Trigger.objects.filter(outcome=TriggerOutcome.OPEN, requested_at__lt=timezone.now() - CRASHED_AFTER)
    rows = crashed.select_related("task__team", "task__credential").order_by("requested_at")
    closed = [row for row in rows if close(row, Verdict(TriggerOutcome.UNKNOWN, CRASHED), by=by)]
    for row in closed:
        log.info("trigger_closed", operation=str(row.pk), outcome=TriggerOutcome.UNKNOWN.value)
    return len(closed)


def _close(trigger: Trigger, verdict: Verdict, by: Actor) -> bool:
    task = trigger.task
    if verdict.seen and verdict.seen_since is not None:
        # A start that was asked for here is kept, however old Arize says that it is.
        is_new = verdict.outcome is TriggerOutcome.DONE
        record_readings([Reading(task, verdict.seen, verdict.seen_since, on_demand=is_new)])
    run = _started(trigger, verdict)
    if not _write(trigger, verdict, run):
        return False
    record(
        EventType.RUN_TRIGGER,
        verdict.outcome.value,
        by=by,
        team=task.team,
        task=task,
        run=run,
        operation_id=trigger.pk,
        details=verdict.details,
    )
    return True


def _started(trigger: Trigger, verdict: Verdict) -> Run | None:
    if verdict.outcome is not TriggerOutcome.DONE:
        return None
    mirrored = Run.objects.filter(team=trigger.task.team_id, endpoint=trigger.task.endpoint)
    return mirrored.select_related("task").get(arize_id=verdict.seen[0].id)


def _write(trigger: Trigger, verdict: Verdict, run: Run | None) -> bool:
    open_ = [it for it in TriggerOutcome if not it.facts.is_final and it is not verdict.outcome]
    return bool(
        Trigger.objects.filter(pk=trigger.pk, outcome__in=open_).update(
            outcome=verdict.outcome,
            closed_at=timezone.now(),
            explanation=verdict.explanation,
            is_throttled=verdict.throttled,
            run=run,
        )
    )
