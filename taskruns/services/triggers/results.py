"""Writes the outcome of a start: the trigger, the runs as Arize showed them and the audit row in one transaction."""

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
    """Write the answer's outcome. False if another worker closed the trigger first.

    A later answer may replace `unknown`. Expects `trigger.task` with its team. Raises OutcomeNotWritten; the sweep then
    closes the trigger as `unknown`.
    """
    with writing_outcome(EventType.RUN_TRIGGER):
        return _write(trigger, answer, by)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Close as `unknown` every trigger that a crash left without an outcome: Arize offers no way to look it up.

    If a run did start, the mirror finds it. Returns how many were closed. Safe to run concurrently.
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
        # Keep a run that was started here, even if Arize dates it before the retention period.
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
