"""Writing what the runs of a batch come to, by Arize's answers to its own cancels or by what others found out.

An item has the outcome of its cancellation, or waits for its next attempt or its next reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import NotSent
from taskruns.audit import Actor
from taskruns.models import BatchState, CancelBatch, CancelItem, Cancellation, ItemState, Outcome
from taskruns.services.cancellations import Answer, Result, record_results, write_results

from .pace import wait_after

# The first attempt and two more, for what may have arrived without effect or could not be sent.
MOST_ATTEMPTS = 3
# Re-reads of an unreadable run, with exponential backoff; after that the sweep takes over.
MOST_READINGS = 5
AGAIN = 1.0  # seconds
READ_AGAIN = 2.0
THROTTLED = 429


@dataclass(frozen=True, slots=True)
class Answered:
    """One cancel of a batch with Arize's answer, to the cancel itself or about its run."""

    item: CancelItem
    cancellation: Cancellation
    by: Actor
    answer: Answer


@transaction.atomic(durable=True)
def close_some(answered: Sequence[Answered]) -> None:
    """Cancellations with their outcomes, items and audit rows, in one transaction."""
    now = timezone.now()
    results = [Result(it.cancellation, it.answer, it.by) for it in answered if _tells_more(it)]
    write_results(results)
    _move(answered, now)
    record_results(results)


def follow(batch: CancelBatch) -> None:
    """Bring the items up to what became of their cancellations elsewhere: the mirror and the sweep close them too, and
    a joined one belongs to another act.
    """
    _take_over(CancelItem.objects.filter(batch=batch, state=ItemState.SENT))
    if batch.state == BatchState.ABORTED:
        leave_out(batch)


def follow_unknown() -> int:
    """Items whose outcome was unknown, and for which the truth was found since. Their number."""
    late = CancelItem.objects.filter(state=Outcome.UNKNOWN)
    found = late.exclude(cancellation__outcome__in=[Outcome.OPEN, Outcome.UNKNOWN]).exclude(cancellation=None)
    return _as_cancelled(found)


def leave_out(batch: CancelBatch) -> None:
    """Items that wait are not sent any more: one that was tried before has the outcome of that attempt."""
    waiting = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED)
    _as_cancelled(waiting.exclude(cancellation=None).exclude(cancellation__outcome=Outcome.OPEN))
    waiting.update(state=ItemState.LEFT_OUT)


def _take_over(sent: QuerySet[CancelItem]) -> None:
    """An own `unknown` stays: its run is read before anything else is done. A joined 429 is queued."""
    closed = sent.exclude(cancellation__outcome=Outcome.OPEN)
    throttled = closed.filter(joined=True, cancellation__outcome=Outcome.REFUSED)
    throttled.filter(cancellation__answer__http_status=THROTTLED).update(state=ItemState.QUEUED, joined=False)
    _as_cancelled(closed.filter(Q(joined=True) | ~Q(cancellation__outcome=Outcome.UNKNOWN)))


def _as_cancelled(rows: QuerySet[CancelItem]) -> int:
    """Give each item the outcome of its cancellation."""
    outcomes = set(rows.values_list("cancellation__outcome", flat=True))
    return sum(rows.filter(cancellation__outcome=outcome).update(state=outcome) for outcome in outcomes)


def _tells_more(it: Answered) -> bool:
    """A second look at an `unknown` that shows nothing new is no event."""
    if it.cancellation.outcome == Outcome.UNKNOWN:
        return it.answer.outcome is not Outcome.UNKNOWN or it.answer.gone
    return True


def _move(answered: Sequence[Answered], now: datetime) -> None:
    """Those that still wait for this outcome: a sweep may have been faster, and an abort may have taken them."""
    alike: dict[tuple[ItemState | Outcome, float, int, int], list[Answered]] = {}
    for it in answered:
        alike.setdefault(_next(it.item, it.answer), []).append(it)
    for (state, wait, attempts, readings), group in alike.items():
        mine = CancelItem.objects.filter(
            pk__in=[it.item.pk for it in group],
            cancellation__in=[it.cancellation.pk for it in group],
            state=ItemState.SENT,
        )
        later = now + timedelta(seconds=wait)
        mine.update(state=state, attempts=attempts, readings=readings, next_try_at=later)


def _next(item: CancelItem, answer: Answer) -> tuple[ItemState | Outcome, float, int, int]:
    """Its next state, the seconds until it is looked at again, its attempts and its readings."""
    attempts, readings = item.attempts, item.readings
    may_try_again = attempts < MOST_ATTEMPTS
    if answer.outcome is Outcome.OPEN:
        return ItemState.SENT, 0, attempts, readings
    if answer.throttled:
        return ItemState.QUEUED, wait_after(answer.error), attempts - 1, readings
    if answer.outcome is Outcome.NOT_SENT and isinstance(answer.error, NotSent) and may_try_again:
        return ItemState.QUEUED, AGAIN * 2**attempts, attempts, readings
    if answer.outcome is Outcome.UNKNOWN and not answer.gone:
        if answer.seen is not None and answer.seen.status.is_active and may_try_again:
            return ItemState.QUEUED, AGAIN, attempts, readings
        if (answer.seen is None or not answer.seen.status.is_active) and readings < MOST_READINGS:
            return ItemState.SENT, READ_AGAIN * 2**readings, attempts, readings + 1
    return answer.outcome, 0, attempts, readings
