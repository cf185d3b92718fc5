"""Opens cancellations for some runs in one durable transaction. Nothing is sent before it is committed.

The steps are those of a single cancel: check the person's right again, open a Cancellation (at most one open per run),
read the run again under lock, and record `requested`. Only then may the cancel be sent.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, OuterRef, Subquery
from django.utils import timezone

from taskruns.audit import Actor, EventType, append, compose
from taskruns.models import (
    AuditEvent,
    BatchState,
    CancelBatch,
    CancelItem,
    Cancellation,
    ItemState,
    Outcome,
    Run,
    Team,
)
from taskruns.permissions import Action, access_of
from taskruns.services.cancellations import counts_now

from .lifecycle import NO_RIGHT, actor_of, stop
from .pace import free_slots

# Longer than a POST with its re-read can take (38 s). If there is no outcome after that, the worker has died.
LEASE = timedelta(seconds=45)


@dataclass(frozen=True, slots=True)
class Opened:
    """One cancel whose rows are committed. Do not send it before `moment`."""

    item: CancelItem
    cancellation: Cancellation
    by: Actor
    moment: datetime

    @property
    def run(self) -> Run:
        return self.cancellation.run


@dataclass(slots=True)
class _Turn:
    """One run to cancel now. `cancellation` is None if another one is open (`holder`) or the run has ended."""

    item: CancelItem
    by: Actor
    previous: Cancellation | None
    cancellation: Cancellation | None
    run: Run
    holder: Cancellation | None = None


@transaction.atomic(durable=True)
def open_some(batch_id: uuid.UUID, credential_id: uuid.UUID | None, *, most: int) -> list[Opened]:
    """Open up to `most` queued runs of one key, as its pace allows. Empty if none may be sent now."""
    batch = CancelBatch.objects.select_for_update(of=("self",)).select_related("team", "person").get(pk=batch_id)
    if batch.state != BatchState.WORKING:
        return []
    slots = free_slots(credential_id, most=most)
    items = _due(batch, credential_id)[: len(slots.moments)] if slots.moments else []
    # One check covers all runs of this transaction, because nothing is sent before it is committed.
    access = access_of(batch.person, batch.team)
    if not access.may(Action.RUNS_CANCEL_MANY):
        stop(batch, why=NO_RIGHT.format(who=batch.person_label), actor=None)
        return []
    turns = [_Turn(item, actor_of(batch, access.role), None, None, item.run) for item in items]
    if not turns:
        return []
    _insert(batch, turns)
    _read_again(turns)
    sent = [turn for turn in turns if turn.cancellation is not None]
    slots.use(len(sent))
    _write_items(turns)
    Team.bump(batch.team_id)
    append([_row(batch, turn) for turn in turns])
    return [
        Opened(turn.item, turn.cancellation, turn.by, moment)
        for turn, moment in zip(sent, slots.moments, strict=False)
        if turn.cancellation is not None
    ]


def _due(batch: CancelBatch, credential_id: uuid.UUID | None) -> Any:
    rows = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED, next_try_at__lte=timezone.now())
    of_key = rows.filter(run__task__credential=credential_id)
    return of_key.select_related("run").select_for_update(of=("self",)).order_by("next_try_at", "pk")


def _insert(batch: CancelBatch, turns: Sequence[_Turn]) -> None:
    """Insert an open cancellation for each run that has none."""
    run_ids = [turn.item.run_id for turn in turns]
    latest = {row.run_id: row for row in Cancellation.objects.filter(run__in=run_ids).order_by("requested_at")}
    now = timezone.now()
    new = {
        turn.item.run_id: Cancellation(
            run=turn.run,
            batch=batch,
            person=batch.person,
            person_label=batch.person_label,
            reason=batch.reason,
            requested_at=now,
        )
        for turn in turns
    }
    # In a fixed order, so that two batches with the same runs do not deadlock.
    Cancellation.objects.bulk_create([new[run_id] for run_id in sorted(new)], ignore_conflicts=True)
    opened = Cancellation.objects.filter(pk__in=[row.pk for row in new.values()]).values_list("pk", flat=True)
    inserted = set(opened)
    for turn in turns:
        mine = new[turn.item.run_id]
        turn.previous = latest.get(turn.item.run_id)
        turn.cancellation = mine if mine.pk in inserted else None


def _read_again(turns: Sequence[_Turn]) -> None:
    """Read the runs under lock: before our insert, another cancel may have been sent and closed."""
    ids = [turn.item.run_id for turn in turns]
    locked = Run.objects.select_for_update(of=("self",)).select_related("task__credential", "team")
    # In the same order as `write_results`, so that two workers do not deadlock.
    runs = {run.pk: run for run in locked.filter(pk__in=ids).order_by("task_id", "pk")}
    ended = []
    for turn in turns:
        turn.run = runs[turn.item.run_id]
        if turn.cancellation is None:
            turn.holder = Cancellation.objects.filter(run=turn.run).order_by("-requested_at").first()
        elif not turn.run.is_active:
            ended.append(turn.cancellation.pk)
            turn.cancellation = None
        else:
            turn.cancellation.run = turn.run
    Cancellation.objects.filter(pk__in=ended).delete()


def _write_items(turns: Sequence[_Turn]) -> None:
    """Update all sent items in one statement, and all ended ones in another."""
    until = timezone.now() + LEASE
    open_one = Cancellation.objects.filter(run=OuterRef("run"), outcome=Outcome.OPEN).values("pk")[:1]
    mine = [turn.item.pk for turn in turns if turn.cancellation is not None]
    CancelItem.objects.filter(pk__in=mine).update(
        state=ItemState.SENT,
        cancellation=Subquery(open_one),
        next_try_at=until,
        attempts=F("attempts") + 1,
        readings=0,
        joined=False,
    )
    for turn in turns:
        if turn.cancellation is not None:
            turn.item.state, turn.item.cancellation = ItemState.SENT, turn.cancellation
            turn.item.attempts, turn.item.readings = turn.item.attempts + 1, 0
        elif turn.holder is not None:
            joined = {"state": ItemState.SENT, "cancellation": turn.holder, "joined": True}
            CancelItem.objects.filter(pk=turn.item.pk).update(**joined)
    ended = [turn.item.pk for turn in turns if turn.cancellation is None and turn.holder is None]
    CancelItem.objects.filter(pk__in=ended).update(state=Outcome.NOT_NEEDED)


def _row(batch: CancelBatch, turn: _Turn) -> AuditEvent:
    details: dict[str, Any] = {"batch_id": str(batch.pk)}
    details |= {"stop": str(batch.stop_id)} if batch.stop_id else {}
    if turn.cancellation is not None:
        outcome = "requested"
        details |= counts_now(turn.run) | {"attempt": turn.item.attempts}
        details |= {"previous_operation": str(turn.previous.pk)} if turn.previous else {}
    elif turn.holder is not None:
        outcome = Outcome.JOINED.value
        details |= {"previous_operation": str(turn.holder.pk)}
    else:
        outcome = Outcome.NOT_NEEDED.value
        details |= {"status_before": turn.run.status}
    return compose(
        EventType.RUN_CANCEL,
        outcome,
        by=turn.by,
        team=batch.team,
        run=turn.run,
        operation_id=turn.cancellation.pk if turn.cancellation else uuid.uuid4(),
        reason=batch.reason,
        details=details,
    )
