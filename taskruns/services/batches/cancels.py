"""Cancels the runs of a batch, each by the steps of a single cancel.

Opening: at most one open Cancellation per run, the run read again under lock, and `requested` in the log. The worker
notes that it is sent (`posted_at`) only when it is, because that may be half a second later.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from taskruns.audit import Actor, EventType, compose
from taskruns.models import AuditEvent, BatchKind, CancelBatch, CancelItem, Cancellation, ItemState, Outcome, Run
from taskruns.services.cancellations import Answer, ask_arize, counts_now, holder_of, locked_runs, reread
from taskruns.services.runs.facts import update_cancelled

from .kind import KIND_FACTS, LEASE, Answered, Kind, Opened, Turns
from .results import close_some, follow

THREADS = 32  # most of them wait for the moment to send
NEVER_SENT = Answer(Outcome.NOT_SENT, "The worker was interrupted before it could send the cancel.")


@dataclass(slots=True)
class _Turn:
    """One run to cancel now. `cancellation` is None if another one is open (`holder`) or the run has ended."""

    item: CancelItem
    by: Actor
    previous: Cancellation | None
    cancellation: Cancellation | None
    run: Run
    holder: Cancellation | None = None


class Cancels(Kind[Cancellation, Answer]):
    facts = KIND_FACTS[BatchKind.CANCEL]
    most_in_flight = THREADS

    def open(self, batch: CancelBatch, items: Sequence[CancelItem], by: Actor) -> Turns[Cancellation]:
        turns = [_Turn(item, by, None, None, item.run) for item in items]
        _insert(batch, turns)
        turns = _read_again(turns)
        _write_items(turns)
        to_send = [(it.item, it.cancellation, it.run, it.by) for it in turns if it.cancellation is not None]
        update_cancelled(it.run.pk for it in turns if it.cancellation is not None)
        return Turns(to_send, [_row(batch, turn) for turn in turns])

    def ask(self, opened: Opened[Cancellation]) -> Answer:
        return ask_arize(opened.run)

    def reread(self, opened: Opened[Cancellation]) -> Answer:
        return reread(opened.run, is_late=True)

    def close(self, answered: Sequence[Answered[Cancellation, Answer]]) -> None:
        close_some(answered)

    def close_unsent(self, items: Iterable[CancelItem], by: Actor) -> None:
        found = [Answered(it, it.cancellation, by, NEVER_SENT) for it in items if it.cancellation is not None]
        if found:
            close_some(found)

    def lost(self, items: QuerySet[CancelItem]) -> Iterable[tuple[CancelItem, Cancellation, Run]]:
        """Those whose answer was lost. They are read before anything else is sent for them."""
        is_posted = Q(cancellation__outcome=Outcome.OPEN, cancellation__posted_at__isnull=False)
        is_lost = is_posted & Q(cancellation__stopping_since=None)
        lost = items.filter(is_lost | Q(cancellation__outcome=Outcome.UNKNOWN))
        loaded = lost.select_related(
            "cancellation__run__task__credential", "cancellation__run__team", "cancellation__batch"
        )
        return ((it, it.cancellation, it.cancellation.run) for it in loaded if it.cancellation is not None)

    def follow(self, batch: CancelBatch) -> None:
        follow(batch)


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
            posted_at=None,
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


def _read_again(turns: Sequence[_Turn]) -> list[_Turn]:
    """Read the runs under lock: before our insert, another cancel may have been sent and closed.

    Returns the turns to write. An item stays queued if its run is still active and the other cancel was closed while we
    waited for the lock: the run needs another cancel.
    """
    runs = locked_runs(turn.item.run_id for turn in turns)
    ended = []
    for turn in turns:
        turn.run = runs[turn.item.run_id]
        if turn.cancellation is None:
            turn.holder = holder_of(turn.run)
        elif not turn.run.is_active:
            ended.append(turn.cancellation.pk)
            turn.cancellation = None
        else:
            turn.cancellation.run = turn.run
    Cancellation.objects.filter(pk__in=ended).delete()
    return [
        turn for turn in turns if turn.holder is None or turn.holder.outcome == Outcome.OPEN or not turn.run.is_active
    ]


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
