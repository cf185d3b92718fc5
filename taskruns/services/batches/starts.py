"""Starts the ended runs of a batch again, each by the steps of a single start, and each at most once.

Opening: the run is locked, so that of two batches with the same run only one opens a start; a Trigger is inserted, and
`requested` goes into the log. The worker notes that it is sent (`posted_at`) by a conditional UPDATE, and only the
worker whose UPDATE counts sends it. A start is repeated only if it is known that it had no effect: it was never sent,
or Arize refused it for its rate limit or its key. If the answer was lost, its outcome stays unknown, and it is not
repeated.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import NotSent, Unauthorized
from taskruns.arize.triggers import PreparedTrigger
from taskruns.audit import Actor, EventType, compose
from taskruns.models import (
    AuditEvent,
    BatchKind,
    BatchState,
    CancelBatch,
    CancelItem,
    EmergencyStop,
    ItemState,
    Run,
    Trigger,
    TriggerOutcome,
)
from taskruns.services.remote_acts import sum_of_all
from taskruns.services.triggers import Answer, ask_arize, close

from .actions import give_up
from .kind import KIND_FACTS, LEASE, Answered, Kind, Opened, Turns
from .pace import wait_after
from .results import AGAIN, MOST_ATTEMPTS, copy_outcomes, leave_out
from .startable import started_again

# Each lost answer may be a run that nobody sees, so few are waited for, and an outage ends the batch soon.
MOST_IN_FLIGHT = 8
MOST_LOST = 5  # in a row
NO_ANSWERS = "Arize did not answer the last {number} starts. The remaining runs were not started. Retry them later."
NEVER_SENT = Answer(TriggerOutcome.NOT_SENT, "The worker was interrupted before it could send the start.")


@dataclass(slots=True)
class _Turn:
    """One run to start again now. `trigger` is None if a stop holds its task or `earlier` has started it again."""

    item: CancelItem
    run: Run
    by: Actor
    earlier: uuid.UUID | None
    stop: EmergencyStop | None
    trigger: Trigger | None = None

    @property
    def state(self) -> ItemState:
        if self.trigger is not None:
            return ItemState.SENT
        return ItemState.HELD if self.stop is not None else ItemState.ALREADY_STARTED


class Starts(Kind[Trigger, Answer]):
    facts = KIND_FACTS[BatchKind.TRIGGER]
    most_in_flight = MOST_IN_FLIGHT

    def open(self, batch: CancelBatch, items: Sequence[CancelItem], by: Actor) -> Turns[Trigger]:
        runs = _locked_runs(items)
        # After the lock: another batch that opened a start of the same run has committed it.
        earlier = started_again(list(runs), apart_from=batch)
        stop = EmergencyStop.objects.holding().filter(team=batch.team_id).first()
        turns = [_turn(batch, item, runs[item.run_id], by, earlier, stop) for item in items]
        Trigger.objects.bulk_create([turn.trigger for turn in turns if turn.trigger is not None])
        _write_items(turns)
        to_send = [(it.item, it.trigger, it.run, it.by) for it in turns if it.trigger is not None]
        return Turns(to_send, [_row(batch, turn) for turn in turns])

    def ask(self, opened: Opened[Trigger]) -> Answer:
        return ask_arize(opened.run.task, PreparedTrigger(opened.attempt.parameters))

    def reread(self, opened: Opened[Trigger]) -> Answer:
        raise NotImplementedError  # Arize offers no way to look up a start: `lost` is always empty

    def close(self, answered: Sequence[Answered[Trigger, Answer]]) -> None:
        """Each in its own transaction, because recording a new run takes locks that come before the log's."""
        sum_of_all(partial(_close, it) for it in answered)
        if answered and _lost_in_a_row(answered[0].item.batch_id):
            give_up(answered[0].item.batch_id, why=NO_ANSWERS.format(number=MOST_LOST))

    def close_unsent(self, items: Iterable[CancelItem], by: Actor) -> None:
        for item in items:
            if item.trigger is not None and close(item.trigger, NEVER_SENT, by=by) is not None:
                _update_item(Answered(item, item.trigger, by, NEVER_SENT))

    def lost(self, items: QuerySet[CancelItem]) -> Iterable[tuple[CancelItem, Trigger, Run]]:
        """None: the sweep of single starts closes them as unknown."""
        del items
        return ()

    def follow(self, batch: CancelBatch) -> None:
        """After a crash between the outcome of a start and the state of its item, the latter follows here."""
        closed = CancelItem.objects.filter(batch=batch, state=ItemState.SENT).exclude(trigger=None)
        closed = closed.exclude(trigger__outcome=TriggerOutcome.OPEN)
        never_sent = Q(trigger__outcome=TriggerOutcome.NOT_SENT, trigger__posted_at=None)
        closed.filter(never_sent | Q(trigger__is_throttled=True)).update(state=ItemState.QUEUED)
        copy_outcomes(closed, of="trigger")
        if batch.state == BatchState.ABORTED:
            leave_out(batch)


def _locked_runs(items: Sequence[CancelItem]) -> dict[uuid.UUID, Run]:
    locked = Run.objects.select_for_update(of=("self",), no_key=True)
    runs = locked.filter(pk__in=[it.run_id for it in items]).select_related("task__credential", "task__team", "team")
    return {run.pk: run for run in runs.order_by("pk")}


def _turn(
    batch: CancelBatch,
    item: CancelItem,
    run: Run,
    by: Actor,
    earlier: dict[uuid.UUID, uuid.UUID],
    stop: EmergencyStop | None,
) -> _Turn:
    holding = stop if stop is not None and stop.holds(run.task) else None
    turn = _Turn(item, run, by, earlier.get(run.pk), holding)
    if holding is None and turn.earlier is None:
        turn.trigger = Trigger(
            pk=uuid.uuid4(),
            task=run.task,
            person=batch.person,
            person_label=batch.person_label,
            parameters=item.body,
            posted_at=None,
        )
    return turn


def _write_items(turns: Sequence[_Turn]) -> None:
    until = timezone.now() + LEASE
    for turn in turns:
        turn.item.state, turn.item.next_try_at = turn.state, until
        if turn.trigger is not None:
            turn.item.trigger, turn.item.attempts = turn.trigger, turn.item.attempts + 1
    CancelItem.objects.bulk_update([turn.item for turn in turns], ["state", "trigger", "attempts", "next_try_at"])


def _row(batch: CancelBatch, turn: _Turn) -> AuditEvent:
    details: dict[str, Any] = {"batch_id": str(batch.pk), "again": turn.run.arize_id}
    if turn.trigger is not None:
        details |= turn.trigger.parameters | {"attempt": turn.item.attempts}
    elif turn.stop is not None:
        details |= {"stop": str(turn.stop.pk)}
    else:
        details |= {"previous_operation": str(turn.earlier)}
    return compose(
        EventType.RUN_TRIGGER,
        "requested" if turn.trigger is not None else TriggerOutcome.NOT_SENT.value,
        by=turn.by,
        team=batch.team,
        task=turn.run.task,
        operation_id=turn.trigger.pk if turn.trigger is not None else uuid.uuid4(),
        reason=batch.reason,
        details=details,
    )


def _update_item(it: Answered[Trigger, Answer]) -> None:
    """Unless another worker was faster. A late answer replaces `unknown`."""
    state, wait, attempts = _next(it)
    mine = CancelItem.objects.filter(pk=it.item.pk, trigger=it.attempt.pk)
    mine = mine.filter(state__in=[ItemState.SENT, TriggerOutcome.UNKNOWN])
    later = timezone.now() + timedelta(seconds=wait)
    mine.update(state=state, attempts=attempts, next_try_at=later)


def _next(it: Answered[Trigger, Answer]) -> tuple[str, float, int]:
    """The item's next state, the seconds until its next attempt, and its attempts."""
    answer, attempts = it.answer, it.item.attempts
    if it.attempt.posted_at is None:
        return ItemState.QUEUED, 0, attempts - 1
    if answer.throttled:
        return ItemState.QUEUED, wait_after(answer.error), attempts - 1
    if attempts < MOST_ATTEMPTS and isinstance(answer.error, Unauthorized):
        return ItemState.QUEUED, wait_after(answer.error), attempts
    if attempts < MOST_ATTEMPTS and isinstance(answer.error, NotSent):
        return ItemState.QUEUED, AGAIN * 2.0**attempts, attempts
    return answer.outcome, 0, attempts


def _lost_in_a_row(batch_id: uuid.UUID) -> bool:
    """Whether the answers to the last starts of this batch were all lost."""
    closed = Trigger.objects.filter(items__batch=batch_id, closed_at__isnull=False).order_by("-closed_at")
    latest = list(closed.values_list("outcome", flat=True)[:MOST_LOST])
    return latest == [TriggerOutcome.UNKNOWN] * MOST_LOST


def _close(it: Answered[Trigger, Answer]) -> int:
    answer = close(it.attempt, it.answer, by=it.by)
    if answer is None:
        return 0
    _update_item(replace(it, answer=answer))
    return 1
