"""Writes the outcome of a start: the trigger, the runs as Arize showed them and the audit row in one transaction."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from django.utils import timezone

from taskruns.arize.errors import RateLimited, Unauthorized
from taskruns.arize.wire import WireRun
from taskruns.audit import Actor, EventType, record
from taskruns.models import TRIGGER_FACTS, CancelItem, Credential, Run, Task, Trigger, TriggerOutcome
from taskruns.services.credentials.client import count
from taskruns.services.credentials.health import note_rejected
from taskruns.services.remote_acts import SWEEPER, crashed_before, outcome_is_written, sum_of_all, writing_outcome
from taskruns.services.runs.observations import Reading, record_readings

from .answer import Answer

log = structlog.get_logger(__name__)

STARTER = Actor.job("starts")
# Clocks may differ by this much: Arize's, or those of two machines of the panel.
CLOCKS_DIFFER = timedelta(minutes=1)
OLD_RUN = "Arize answered with a run that existed before. A new run may still appear."
CRASHED = "The panel was interrupted before it could record Arize's answer."


def close(trigger: Trigger, answer: Answer, *, by: Actor) -> Answer | None:
    """Write the answer's outcome. Returns the answer as it counts, or None if another worker closed the trigger first.

    A later answer may replace `unknown`. Expects `trigger.task` with its team. Raises OutcomeNotWritten; the sweep then
    closes the trigger as `unknown`.
    """
    with writing_outcome(EventType.RUN_TRIGGER):
        answer = _with_new_runs(trigger.task, _about_a_new_run(trigger.task, answer))
        return answer if _write(trigger, answer, by) else None


def learn_of_key(key: Credential, answer: Answer) -> None:
    """Count the calls, and note if Arize rejected the key."""
    count(key, calls=answer.calls, limited=int(isinstance(answer.error, RateLimited)))
    if isinstance(answer.error, Unauthorized):
        with outcome_is_written("rejection_not_noted", key=key.pk):
            note_rejected(key, sentence=answer.error.sentence, by=STARTER)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Close as `unknown` every trigger that a crash left without an outcome: Arize offers no way to look it up.

    If a run did start, the mirror finds it. What a batch has not sent yet is the batch's to send. Returns how many were
    closed. Safe to run concurrently.
    """
    crashed = Trigger.objects.filter(crashed_before(), posted_at__isnull=False)
    rows = crashed.select_related("task__team", "task__credential").order_by("requested_at")
    return sum_of_all(partial(_give_up, row, by) for row in rows)


def _give_up(row: Trigger, by: Actor) -> int:
    if not close(row, Answer(TriggerOutcome.UNKNOWN, CRASHED), by=by):
        return 0
    log.info("trigger_closed", operation=str(row.pk), outcome=TriggerOutcome.UNKNOWN.value)
    return 1


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
        details=answer.details | _batch_of(trigger),
    )
    return True


def _batch_of(trigger: Trigger) -> dict[str, str]:
    """If a batch started it, the batch and the run that it started again."""
    item = CancelItem.objects.filter(trigger=trigger).select_related("run").first()
    return {"batch_id": str(item.batch_id), "again": item.run.arize_id} if item is not None else {}


def _about_a_new_run(task: Task, answer: Answer) -> Answer:
    """An answer with a run that existed before proves no start, and says nothing about that run."""
    if answer.outcome is not TriggerOutcome.DONE or answer.seen_since is None:
        return answer
    before = Run.objects.filter(first_seen_at__lt=answer.seen_since - CLOCKS_DIFFER)
    own = before.filter(team=task.team_id, endpoint=task.endpoint, arize_id=answer.seen[0].id)
    if not own.exists():
        return answer
    return replace(answer, outcome=TriggerOutcome.UNKNOWN, explanation=OLD_RUN, seen=(), seen_since=None)


def _with_new_runs(task: Task, answer: Answer) -> Answer:
    """Add which runs have appeared since a start whose answer was lost."""
    if answer.lost_at is None:
        return answer
    new = _new_runs(task, answer.seen, answer.lost_at)
    details = answer.details | {"new_runs": [run.id for run in new]}
    return replace(answer, explanation=_about(len(new)), details=details)


def _new_runs(task: Task, runs: Iterable[WireRun], sent_at: datetime) -> list[WireRun]:
    """The runs that, as far as we know, did not exist before the start was sent."""
    young = [run for run in runs if run.created_at is None or run.created_at >= sent_at - CLOCKS_DIFFER]
    held = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, first_seen_at__lt=sent_at)
    known = set(held.filter(arize_id__in=[run.id for run in young]).values_list("arize_id", flat=True))
    return [run for run in young if run.id not in known]


def _about(new: int) -> str:
    if not new:
        return "The task has no new run so far, but one may still appear."
    if new == 1:
        return "One new run of the task has appeared since. It may be yours."
    return f"{new} new runs of the task have appeared since. One of them may be yours."


def _started(trigger: Trigger, answer: Answer) -> Run | None:
    if answer.outcome is not TriggerOutcome.DONE:
        return None
    mirrored = Run.objects.filter(team=trigger.task.team_id, endpoint=trigger.task.endpoint)
    return mirrored.select_related("task").get(arize_id=answer.seen[0].id)


def _update(trigger: Trigger, answer: Answer, run: Run | None) -> bool:
    not_final = [outcome for outcome, facts in TRIGGER_FACTS.items() if not facts.is_final]
    rows = Trigger.objects.filter(pk=trigger.pk, outcome__in=not_final).exclude(outcome=answer.outcome)
    if trigger.posted_at is None:
        rows = rows.filter(posted_at=None)  # otherwise another worker has begun to send it
    return bool(
        rows.update(
            outcome=answer.outcome,
            closed_at=timezone.now(),
            explanation=answer.explanation,
            is_throttled=answer.throttled,
            run=run,
        )
    )
