"""Writes the outcomes of a batch's cancels: from Arize's answers to its own, or as others have found them.

An item has the outcome of its cancellation, or waits for its next attempt or its next re-read.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import NotSent, Unauthorized
from taskruns.models import BatchKind, BatchState, CancelBatch, CancelItem, Cancellation, ItemState, Outcome
from taskruns.services.cancellations import Answer, Result, record_results, write_results

from .kind import Answered
from .pace import wait_after

# The first attempt and two more, if a cancel had no effect or could not be sent.
MOST_ATTEMPTS = 3
# Re-reads of an unreadable run, with exponential backoff; after that the sweep takes over.
MOST_READINGS = 5
AGAIN = 1.0  # seconds
READ_AGAIN = 2.0
THROTTLED = 429
_Cancel = Answered[Cancellation, Answer]


@transaction.atomic(durable=True)
def close_some(answered: Sequence[_Cancel]) -> None:
    """Write cancellations, items and audit rows in one transaction."""
    now = timezone.now()
    results = [Result(it.attempt, it.answer, it.by) for it in answered]
    write_results(results)
    found = zip(answered, results, strict=True)
    _update_items([replace(it, answer=result.answer) for it, result in found if not _is_sent_after_all(result)], now)
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
    return sum(_follow_unknown(kind.attempt) for kind in BatchKind)


def _follow_unknown(attempt: str) -> int:
    late = CancelItem.objects.filter(state=Outcome.UNKNOWN).exclude(**{attempt: None})
    found = late.exclude(**{f"{attempt}__outcome__in": [Outcome.OPEN, Outcome.UNKNOWN]})
    return copy_outcomes(found, of=attempt)


def hasten(batches: QuerySet[CancelBatch]) -> int:
    """Re-read now the runs whose re-reads failed, if the mirror has read them since: Arize has recovered.

    Returns how many.
    """
    now = timezone.now()
    waiting = CancelItem.objects.filter(batch__in=batches.filter(finished_at=None), state=ItemState.SENT, joined=False)
    is_shown = Q(run__rank=1, run__observed_at__gt=F("cancellation__requested_at"))
    found = list(waiting.filter(is_shown, readings__gt=0, next_try_at__gt=now).values_list("pk", "batch"))
    if found:
        mine = CancelItem.objects.filter(pk__in=[item for item, _ in found], state=ItemState.SENT)
        mine.update(next_try_at=now)
        CancelBatch.objects.filter(pk__in={batch for _, batch in found}, finished_at=None).update(due_at=now)
    return len(found)


def was_in_vain(of: str = "") -> Q:
    """Items whose cancel could not be sent, or whose run could not be read afterwards. `of`: the path to the item."""
    return Q(**{f"{of}state": Outcome.NOT_SENT}) | Q(
        **{f"{of}state": Outcome.UNKNOWN, f"{of}readings__gte": MOST_READINGS}
    )


def leave_out(batch: CancelBatch) -> None:
    """Send nothing for queued items. An item that was sent before gets the outcome of that attempt."""
    waiting, attempt = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED), BatchKind(batch.kind).attempt
    tried = waiting.exclude(**{attempt: None}).exclude(**{f"{attempt}__outcome": Outcome.OPEN})
    copy_outcomes(tried, of=attempt)
    waiting.update(state=ItemState.LEFT_OUT)


def copy_outcomes(rows: QuerySet[CancelItem], *, of: str = "cancellation") -> int:
    """Set each item's state to the outcome of its request. `of`: the column of the request. Returns how many."""
    outcomes = set(rows.values_list(f"{of}__outcome", flat=True))
    return sum(rows.filter(**{f"{of}__outcome": outcome}).update(state=outcome) for outcome in outcomes)


def _close_sent(sent: QuerySet[CancelItem]) -> None:
    """The batch's own `unknown` stays open, because its run is read again first. A joined 429, and what was never sent,
    is queued again.
    """
    closed = sent.exclude(cancellation__outcome=Outcome.OPEN)
    throttled = closed.filter(joined=True, cancellation__outcome=Outcome.REFUSED)
    throttled.filter(cancellation__answer__http_status=THROTTLED).update(state=ItemState.QUEUED, joined=False)
    never_sent = closed.filter(cancellation__outcome=Outcome.NOT_SENT)
    never_sent.filter(joined=True).update(state=ItemState.QUEUED, joined=False)
    never_sent.filter(cancellation__posted_at=None).update(state=ItemState.QUEUED, attempts=F("attempts") - 1)
    copy_outcomes(closed.filter(Q(joined=True) | ~Q(cancellation__outcome=Outcome.UNKNOWN)))


def _is_sent_after_all(result: Result) -> bool:
    """Another worker began to send it before this could be written."""
    return result.cancellation.posted_at is None and not result.is_written


def _update_items(answered: Sequence[_Cancel], now: datetime) -> None:
    """Update the items that still wait for this outcome: a sweep or an abort may have been faster."""
    alike: dict[tuple[ItemState | Outcome, float, int, int], list[_Cancel]] = {}
    for it in answered:
        alike.setdefault(_next(it), []).append(it)
    for (state, wait, attempts, readings), group in alike.items():
        mine = CancelItem.objects.filter(
            pk__in=[it.item.pk for it in group],
            cancellation__in=[it.attempt.pk for it in group],
            state=ItemState.SENT,
        )
        later = now + timedelta(seconds=wait)
        mine.update(state=state, attempts=attempts, readings=readings, next_try_at=later)


def _next(it: _Cancel) -> tuple[ItemState | Outcome, float, int, int]:
    """The item's next state, the seconds until its next attempt or re-read, its attempts and its re-reads."""
    answer, attempts, readings = it.answer, it.item.attempts, it.item.readings
    may_try_again = attempts < MOST_ATTEMPTS
    if it.attempt.posted_at is None:
        return ItemState.QUEUED, 0, attempts - 1, readings
    if answer.outcome is Outcome.OPEN:
        return ItemState.SENT, 0, attempts, readings
    if answer.throttled:
        return ItemState.QUEUED, wait_after(answer.error), attempts - 1, readings
    is_active = answer.seen is not None and answer.seen.status.is_active
    if answer.outcome is Outcome.UNKNOWN and not answer.gone and not is_active and readings < MOST_READINGS:
        return ItemState.SENT, READ_AGAIN * 2**readings, attempts, readings + 1
    wait = _wait_before_retry(answer, attempts, is_active=is_active) if may_try_again else None
    if wait is not None:
        return ItemState.QUEUED, wait, attempts, readings
    return answer.outcome, 0, attempts, readings


def _wait_before_retry(answer: Answer, attempts: int, *, is_active: bool) -> float | None:
    """Seconds until the next attempt after one that had no effect. None if another would have none either."""
    if isinstance(answer.error, Unauthorized):
        return wait_after(answer.error)
    if answer.outcome is Outcome.NOT_SENT and isinstance(answer.error, NotSent):
        return AGAIN * 2.0**attempts
    return AGAIN if answer.outcome is Outcome.UNKNOWN and not answer.gone and is_active else None
