"""One start of a run, step by step.

1. In one short durable transaction, open a Trigger with the form's own token as its id (the database accepts each token
   once), and record `requested`. If this cannot be committed, nothing is sent.
2. Outside any transaction, send one POST to Arize (`answer.py`).
3. In one short transaction, write the new run, the outcome, and its audit row (`results.py`).
After a crash between 1 and 3, the sweep closes the trigger. A second submit of the same form, by double click or
reload, sends nothing and joins the first. Two separate forms start two runs, because both people want one.
"""

import uuid
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from django.db import transaction

from taskruns.arize.errors import ArizeError
from taskruns.arize.triggers import Wanted
from taskruns.arize.wire import WireRun
from taskruns.audit import Actor, EventType, record
from taskruns.models import Credential, EmergencyStop, Run, Task, Trigger, TriggerOutcome
from taskruns.services.remote_acts import AnyPlace, ArizeIsSlow, Place, after_sending, insert_first

from .answer import ask_arize
from .results import close, learn_of_key


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """`outcome` OPEN: the first submit of this form has no answer yet. `explanation`: what Arize said about it.

    `joined`: this submit sent nothing. `stop`: the emergency stop that holds the task.
    `seen`: the new run as Arize showed it to this submit. `error`: Arize's error to the POST, if any.
    """

    outcome: TriggerOutcome
    explanation: str = ""
    run: Run | None = None
    throttled: bool = False
    joined: bool = False
    stop: EmergencyStop | None = None
    seen: WireRun | None = None
    error: ArizeError | None = None


def trigger(
    task: Task,
    *,
    operation: uuid.UUID,
    wanted: Wanted,
    by: Actor,
    place: AnyPlace | None = None,
    key: Credential | None = None,
) -> TriggerResult:
    """Start a run. The caller has checked the person's right. `operation` is the form's token. Sends at most one POST.

    `place`: the caller's own, which the caller gives back. `key`: the one to send with, if not the task's.
    Raises DatabaseError if the request could not be recorded (nothing was sent), ArizeIsSlow if too many requests wait
    for Arize (nothing was recorded or sent), and OutcomeNotWritten if the outcome could not be recorded (it was sent).
    """
    with Place() if place is None else nullcontext(place) as held:
        opened = _open(task.pk, held, operation=operation, parameters=wanted.as_json(), by=by)
        if isinstance(opened, TriggerResult):
            return opened
        if key is not None:
            opened.task.credential = key
        answer = ask_arize(opened.task, wanted)
    with after_sending(EventType.RUN_TRIGGER):
        close(opened, answer, by=by)
        if opened.task.credential is not None:
            learn_of_key(opened.task.credential, answer)
        result = _result(Trigger.objects.select_related("run").get(pk=operation))
    is_done = result.outcome is TriggerOutcome.DONE
    return replace(result, seen=answer.seen[0] if is_done and answer.seen else None, error=answer.error)


def earlier(task: Task, *, operation: uuid.UUID, by: Actor) -> tuple[TriggerResult, dict[str, Any]] | None:
    """The outcome of this person's form so far, and its parameters. None if the form was not submitted."""
    row = _mine(task, operation, by)
    return None if row is None else (_result(row), row.parameters)


@transaction.atomic(durable=True)
def _open(
    task_id: uuid.UUID, place: AnyPlace, *, operation: uuid.UUID, parameters: dict[str, Any], by: Actor
) -> Trigger | TriggerResult:
    # Before the insert: if the token was used, a failed insert would break the transaction.
    task = Task.objects.select_related("credential", "team").get(pk=task_id)
    stop = EmergencyStop.objects.holding().filter(team=task.team).first()
    if stop is not None and stop.holds(task) and _mine(task, operation, by) is None:
        return _held(task, stop, operation, by)
    new = Trigger(
        pk=operation, task=task, person=by.person, token=by.token, person_label=by.label, parameters=parameters
    )
    opened = insert_first(new, rivals=Trigger.objects.filter(pk=operation))
    if opened is None:
        return _join(_mine(task, operation, by), parameters)
    if not place.take():
        raise ArizeIsSlow
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
    """Do not start a run that the emergency stop would cancel at once."""
    details = {"stop": str(stop.pk)}
    outcome = TriggerOutcome.NOT_SENT.value
    record(EventType.RUN_TRIGGER, outcome, by=by, team=task.team, task=task, operation_id=operation, details=details)
    return TriggerResult(TriggerOutcome.HELD, joined=True, stop=stop)


def _mine(task: Task, operation: uuid.UUID, by: Actor) -> Trigger | None:
    rows = Trigger.objects.select_related("run").filter(task=task, person=by.person, token=by.token)
    return rows.filter(pk=operation).first()


def _join(first: Trigger | None, parameters: dict[str, Any]) -> TriggerResult:
    """Only the person who submitted this form for this task learns its outcome."""
    if first is None or first.parameters != parameters:
        return TriggerResult(TriggerOutcome.USED, joined=True)
    return replace(_result(first), joined=True)


def _result(row: Trigger) -> TriggerResult:
    return TriggerResult(TriggerOutcome(row.outcome), row.explanation, row.run, throttled=row.is_throttled)
