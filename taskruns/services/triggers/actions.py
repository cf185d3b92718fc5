"""One form that starts a run, in order.

1. One short durable transaction: open a Trigger under the form's own token (the database takes each token once), and
   record `requested`. If that cannot be committed, nothing is sent.
2. Outside any transaction: the one POST to Arize (`answer.py`).
3. One short transaction with the new run, the outcome, and its audit row (`results.py`).
The sweep closes what a crash between 1 and 3 left open. A second POST of the same form, by a double click or a reload,
sends nothing and joins the first. Two forms start two runs, because two people who both ask want two.
"""

import uuid
from dataclasses import dataclass, replace
from typing import Any

from django.db import transaction

from taskruns.arize.triggers import EvaluationTrigger, ExperimentTrigger
from taskruns.audit import Actor, EventType, record
from taskruns.models import EmergencyStop, Run, Task, Trigger, TriggerOutcome
from taskruns.services.remote_acts import insert_first

from .answer import ask_arize
from .results import close


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """`outcome` OPEN: the first POST of this form has no answer yet. `explanation`: what Arize said of it.

    `joined`: this POST sent nothing. `stop`: the emergency stop that holds the task.
    """

    outcome: TriggerOutcome
    explanation: str = ""
    run: Run | None = None
    throttled: bool = False
    joined: bool = False
    stop: EmergencyStop | None = None


def trigger(
    task: Task, *, operation: uuid.UUID, wanted: EvaluationTrigger | ExperimentTrigger, by: Actor
) -> TriggerResult:
    """Start a run for a person who has the right to. `operation` is the form's token. Sends at most one POST.

    Raises DatabaseError when nothing was sent because nothing could be written, OutcomeNotWritten when it was sent.
    """
    opened = _open(task.pk, operation=operation, parameters=wanted.as_json(), by=by)
    if isinstance(opened, TriggerResult):
        return opened
    close(opened, ask_arize(opened.task, wanted), by=by)
    return _result(Trigger.objects.select_related("run").get(pk=operation))


def earlier(task: Task, *, operation: uuid.UUID, by: Actor) -> tuple[TriggerResult, dict[str, Any]] | None:
    """What came of this person's form, and its parameters. None if it was not sent."""
    row = _mine(task, operation, by)
    return None if row is None else (_result(row), row.parameters)


@transaction.atomic(durable=True)
def _open(
    task_id: uuid.UUID, *, operation: uuid.UUID, parameters: dict[str, Any], by: Actor
) -> Trigger | TriggerResult:
    # Before the insert, which for a used token would spoil the transaction.
    task = Task.objects.select_related("credential", "team").get(pk=task_id)
    stop = EmergencyStop.objects.holding().filter(team=task.team).first()
    if stop is not None and stop.holds(task) and _mine(task, operation, by) is None:
        return _held(task, stop, operation, by)
    new = Trigger(pk=operation, task=task, person=by.person, person_label=by.label, parameters=parameters)
    opened = insert_first(new, rivals=Trigger.objects.filter(pk=operation))
    if opened is None:
        return _join(_mine(task, operation, by), parameters)
    record(
        EventType.RUN_TRIGGER,
        "requested",
        by=by,
        team=task.team,
        task=task,
        operation_id=operation,
        details=parameters,
    )
    return opened


def _held(task: Task, stop: EmergencyStop, operation: uuid.UUID, by: Actor) -> TriggerResult:
    """A run that would be cancelled at once is not started."""
    details = {"stop": str(stop.pk)}
    outcome = TriggerOutcome.NOT_SENT.value
    record(EventType.RUN_TRIGGER, outcome, by=by, team=task.team, task=task, operation_id=operation, details=details)
    return TriggerResult(TriggerOutcome.HELD, joined=True, stop=stop)


def _mine(task: Task, operation: uuid.UUID, by: Actor) -> Trigger | None:
    rows = Trigger.objects.select_related("run").filter(task=task, person=by.person)
    return rows.filter(pk=operation).first()


def _join(first: Trigger | None, parameters: dict[str, Any]) -> TriggerResult:
    """A person learns the outcome of their own form for this task only."""
    if first is None or first.parameters != parameters:
        return TriggerResult(TriggerOutcome.USED, joined=True)
    return replace(_result(first), joined=True)


def _result(row: Trigger) -> TriggerResult:
    return TriggerResult(TriggerOutcome(row.outcome), row.explanation, row.run, throttled=row.is_throttled)
