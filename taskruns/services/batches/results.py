"""Writes the outcomes of a batch's runs: from Arize's answers to its own cancels, or as others have found them.

An item has the outcome of its cancellation, or waits for its next attempt or its next re-read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import NotSent
from taskruns.audit import Actor
from taskruns.models import BatchState, CancelBatch, CancelItem, Cancellation, ItemState, Outcome
from taskruns.services.cancellations import Answer, Result, record_results, write_results

from .pace import wait_after

# The first attempt and two more, if a cancel had no effect or could not be sent.
MOST_ATTEMPTS = 3
# Re-reads of an unreadable run, with exponential backoff; after that the sweep takes over.
MOST_READINGS = 5
AGAIN = 1.0  # seconds
READ_AGAIN = 2.0
THROTTLED = 429


@dataclass(frozen=True, slots=True)
class Answered:
    """One cancel of a batch with Arize's answer, to the cancel itself or to a re-read of its run."""

    item: CancelItem
    cancellation: Cancellation
    by: Actor
    answer: Answer


@transaction.atomic(durable=True)
def close_some(answered: Sequence[Answered]) -> None:
    """Write cancellations, items and audit rows in one transaction."""
    now = timezone.now()
    results = [Result(it.cancellation, it.answer, it.by) for it in answered if _is_new_outcome(it)]
    write_results(results)
    written = {result.cancellation.pk: result.answer for result in results}
    answered = [replace(it, answer=written.get(it.cancellation.pk, it.answer)) for it in answered]
    _update_items(answered, now)
    record_results(results)


def follow(batch: CancelBatch) -> None:
    """Copy outcomes that were written elsewhere: the mirror and the sweep also close cancellations, and a joined one
    belongs to another cancel.
    """
    _close_sent(CancelItem.objects.filter(batch=batch, state=ItemState.SENT))
    if batch.state == BatchState.ABORTED:
        leave_out(batch)


def follow_unknown() -> int:
    """Update items whose outcome was unknown and has been found since. Returns how many."""
    late = CancelItem.objects.filter(state=Outcome.UNKNOWN)
    found = late.exclude(cancellation__outcome__in=[Outcome.OPEN, Outcome.UNKNOWN]).exclude(cancellation=None)
    return _copy_outcomes(found)


def leave_out(batch: CancelBatch) -> None:
    """Send nothing for queued items. An item that was sent before gets the outcome of that attempt."""
    waiting = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED)
    _copy_outcomes(waiting.exclude(cancellation=None).exclude(cancellation__outcome=Outcome.OPEN))
    waiting.update(state=ItemState.LEFT_OUT)


def _close_sent(sent: QuerySet[CancelItem]) -> None:
    """The batch's own `unknown` stays open, because its run is read again first. A joined 429 is queued again."""
    closed = sent.exclude(cancellation__outcome=Outcome.OPEN)
    throttled = closed.filter(joined=True, cancellation__outcome=Outcome.REFUSED)
    throttled.filter(cancellation__answer__http_status=THROTTLED).update(state=ItemState.QUEUED, joined=False)
    _copy_outcomes(closed.filter(Q(joined=True) | ~Q(cancellation__outcome=Outcome.UNKNOWN)))


def _copy_outcomes(rows: QuerySet[CancelItem]) -> int:
    """Set each item's state to the outcome of its cancellation. Returns how many."""
    outcomes = set(rows.values_list("cancellation__outcome", flat=True))
    return sum(rows.filter(cancellation__outcome=outcome).update(state=outcome) for outcome in outcomes)


def _is_new_outcome(it: Answered) -> bool:
    """A re-read of an `unknown` that shows nothing new is not recorded."""
    if it.cancellation.outcome == Outcome.UNKNOWN:
        return it.answer.outcome is not Outcome.UNKNOWN or it.answer.gone
    return True


def _update_items(answered: Sequence[Answered], now: datetime) -> None:
    """Update the items that still wait for this outcome: a sweep or an abort may have been faster."""
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
    """The item's next state, the seconds until its next attempt or re-read, its attempts and its re-reads."""
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
