"""What became of the cancels of a few runs, written in one durable transaction: results, items and audit rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from taskruns.arize.errors import NotSent
from taskruns.audit import Actor
from taskruns.models import CancelItem, Cancellation, ItemState, Outcome
from taskruns.services.cancellations import Answer, Result, record_results, write_results

from .pace import wait_after

# The first try and two more, for what may have arrived without effect or could not be sent.
MOST_ATTEMPTS = 3
# Looks at a run of which nothing could be read, each twice as late as the one before; then it is for the sweep.
MOST_READINGS = 5
AGAIN = 1.0  # seconds
READ_AGAIN = 2.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One cancel of a batch, and what Arize said to it or of its run."""

    item: CancelItem
    cancellation: Cancellation
    by: Actor
    answer: Answer


@transaction.atomic(durable=True)
def close_some(answered: Sequence[Answered]) -> None:
    now = timezone.now()
    results = [Result(it.cancellation, it.answer, it.by) for it in answered if _tells_more(it)]
    write_results(results)
    _move(answered, now)
    record_results(results)


def _tells_more(it: Answered) -> bool:
    """A second look at an `unknown` that shows nothing new is no event."""
    if it.cancellation.outcome == Outcome.UNKNOWN:
        return it.answer.outcome is not Outcome.UNKNOWN or it.answer.gone
    return True


def _move(answered: Sequence[Answered], now: datetime) -> None:
    """Those that still wait for this end: a sweep may have been faster, and an abort may have passed by."""
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
