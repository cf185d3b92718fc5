"""Writing the outcome of a start: the row, the runs as they were seen and the audit row are one transaction."""

import structlog
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import TRIGGER_FACTS, Run, Trigger, TriggerOutcome
from taskruns.services.remote_acts import SWEEPER, crashed_before, writing_outcome
from taskruns.services.runs.observations import Reading, record_readings

from .answer import Answer

log = structlog.get_logger(__name__)

CRASHED = "The panel was interrupted before it could record Arize's answer."


def close(trigger: Trigger, answer: Answer, *, by: Actor) -> bool:
    """Write the answer's outcome, unless another worker has closed the start first (then False).

    An `unknown` one takes a later truth. Expects `trigger.task` with its team. Raises OutcomeNotWritten: the sweep
    will close it as unknown.
    """
    with writing_outcome(EventType.RUN_TRIGGER):
        return _write(trigger, answer, by)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Close every start that a crash left without an outcome, as `unknown`: Arize cannot be asked what came of it.

    A run that did start is found by the mirror. The number of rows closed; safe to run twice at once.
    """
    crashed = Trigger.objects.filter(crashed_before())
    rows = crashed.select_related("task__team", "task__credential").order_by("requested_at")
    closed = [row for row in rows if close(row, Answer(TriggerOutcome.UNKNOWN, CRASHED), by=by)]
    for row in closed:
        log.info("trigger_closed", operation=str(row.pk), outcome=TriggerOutcome.UNKNOWN.value)
    return len(closed)


def _write(trigger: Trigger, answer: Answer, by: Actor) -> bool:
    task = trigger.task
    if answer.seen and answer.seen_since is not None:
        # A start that was asked for here is kept, however old Arize says that it is.
        is_new = answer.outcome is TriggerOutcome.DONE
        record_readings([Reading(task, answer.seen, answer.seen_since, on_demand=is_new)])
    run = _started(trigger, answer)
    if not _update(trigger, answer, run):
        return False
    record(
        EventType.RUN_TRIGGER,
        answer.outcome.value,
        by=by,
        team=task.team,
        task=task,
        run=run,
        operation_id=trigger.pk,
        details=answer.details,
    )
    return True


def _started(trigger: Trigger, answer: Answer) -> Run | None:
    if answer.outcome is not TriggerOutcome.DONE:
        return None
    mirrored = Run.objects.filter(team=trigger.task.team_id, endpoint=trigger.task.endpoint)
    return mirrored.select_related("task").get(arize_id=answer.seen[0].id)


def _update(trigger: Trigger, answer: Answer, run: Run | None) -> bool:
    not_final = [outcome for outcome, facts in TRIGGER_FACTS.items() if not facts.is_final]
    rows = Trigger.objects.filter(pk=trigger.pk, outcome__in=not_final).exclude(outcome=answer.outcome)
    return bool(
        rows.update(
            outcome=answer.outcome,
            closed_at=timezone.now(),
            explanation=answer.explanation,
            is_throttled=answer.throttled,
            run=run,
        )
    )
