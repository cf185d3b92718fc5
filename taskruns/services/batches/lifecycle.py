"""The end of a batch: by itself, by a person, or because its person lost the right."""

from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import BatchState, CancelBatch, CancelItem, ItemState, Outcome, Team
from taskruns.models.batches import OPEN_ITEMS

from .draft import target_of

NO_RIGHT = "{who} may no longer cancel many runs in this team, so the rest was not sent."
BY_PERSON = "{who} aborted it, so the rest was not sent."
WORKER = Actor.job("bulk")
THROTTLED = 429


def abort(batch: CancelBatch, *, by: Actor) -> bool:
    """Send nothing more. What was sent is followed to its end. False if the batch does not work any more."""
    with transaction.atomic(durable=True):
        held = _locked(batch)
        if held.state != BatchState.WORKING:
            return False
        stop(held, why=BY_PERSON.format(who=by.label), actor=by)
    return True


def stop(batch: CancelBatch, *, why: str, actor: Actor | None) -> None:
    """Part of a transaction that holds the batch: its row is the last statement. No `actor`: a worker found out."""
    now = timezone.now()
    batch.state, batch.aborted_at, batch.why_aborted, batch.due_at = BatchState.ABORTED, now, why, now
    _leave_out(batch)
    counts = counts_of(batch)
    if not counts.get(ItemState.SENT):
        batch.finished_at = now
    batch.save(update_fields=["state", "aborted_at", "why_aborted", "due_at", "finished_at"])
    Team.bump(batch.team_id)
    _record(batch, "aborted", counts, by=actor or WORKER, why=why)


def follow(batch: CancelBatch) -> None:
    """Bring the items up to what has become of their cancellations elsewhere: the mirror and the sweep close them too,
    and a joined one belongs to somebody else.
    """
    _take_over(CancelItem.objects.filter(batch=batch, state=ItemState.SENT))
    if batch.state == BatchState.ABORTED:
        _leave_out(batch)


def follow_unknown() -> int:
    """Items that ended unknown, of which the truth has come since. Their number."""
    late = CancelItem.objects.filter(state=Outcome.UNKNOWN)
    found = late.exclude(cancellation__outcome__in=[Outcome.OPEN, Outcome.UNKNOWN]).exclude(cancellation=None)
    return _as_ended(found)


def finish(batch: CancelBatch) -> bool:
    """When every item has come to its end: the summary, once."""
    if batch.items.filter(state__in=OPEN_ITEMS).exists():
        return False
    with transaction.atomic(durable=True):
        held = _locked(batch)
        if held.finished_at is not None or held.items.filter(state__in=OPEN_ITEMS).exists():
            return False
        held.finished_at = timezone.now()
        if held.state == BatchState.WORKING:
            held.state = BatchState.FINISHED
        held.save(update_fields=["finished_at", "state"])
        Team.bump(held.team_id)
        _record(held, "finished", counts_of(held), by=Actor(**held.asker, person=held.person))
    return True


def counts_of(batch: CancelBatch) -> dict[str, int]:
    """Items by state."""
    rows = CancelItem.objects.filter(batch=batch).values_list("state").annotate(number=Count("pk"))
    return dict(rows.order_by("state"))


def _locked(batch: CancelBatch) -> CancelBatch:
    return CancelBatch.objects.select_for_update(of=("self",)).select_related("team", "person").get(pk=batch.pk)


def _take_over(sent: QuerySet[CancelItem]) -> None:
    """An own `unknown` stays: its run is read before anything else is done. A joined 429 is taken up."""
    closed = sent.exclude(cancellation__outcome=Outcome.OPEN)
    throttled = closed.filter(joined=True, cancellation__outcome=Outcome.REFUSED)
    throttled.filter(cancellation__answer__http_status=THROTTLED).update(state=ItemState.QUEUED, joined=False)
    _as_ended(closed.filter(Q(joined=True) | ~Q(cancellation__outcome=Outcome.UNKNOWN)))


def _leave_out(batch: CancelBatch) -> None:
    """Those that wait: one that was tried before ends as that try did."""
    waiting = CancelItem.objects.filter(batch=batch, state=ItemState.QUEUED)
    _as_ended(waiting.exclude(cancellation=None).exclude(cancellation__outcome=Outcome.OPEN))
    waiting.update(state=ItemState.LEFT_OUT)


def _as_ended(rows: QuerySet[CancelItem]) -> int:
    outcomes = set(rows.values_list("cancellation__outcome", flat=True))
    return sum(rows.filter(cancellation__outcome=outcome).update(state=outcome) for outcome in outcomes)


def _record(batch: CancelBatch, outcome: str, counts: dict[str, int], *, by: Actor, why: str = "") -> None:
    details = {"batch_id": str(batch.pk), "runs": sum(counts.values()), "counts": counts}
    record(
        EventType.RUN_CANCEL_MANY,
        outcome,
        by=by,
        team=batch.team,
        target=target_of(batch),
        operation_id=batch.pk,
        reason=batch.reason,
        details=details | ({"why": why} if why else {}),
    )
