"""A batch after its draft: it is started, then aborted or finished. Each step is recorded in the audit log."""

import uuid
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from taskruns.audit import Actor, Target, clean_line, record
from taskruns.models import (
    LONGEST_REASON,
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    EmergencyStop,
    ItemState,
    Team,
)
from taskruns.models.batches import OPEN_ITEMS
from taskruns.models.restores import is_resting
from taskruns.services.runs import retention
from taskruns.services.user_errors import RESTING, UserError

from .draft import active_of, make, matching_since
from .kind import KIND_FACTS
from .results import leave_out
from .startable import StartOptions, bodies_of

WORKER = Actor.job("bulk")
_TASKS_NAMED = 50
CHUNK = 20  # batches, with up to some thousand items each


class Held(UserError):
    """An emergency stop holds tasks of the batch, so none of its runs was started."""

    def __init__(self, stop: EmergencyStop, runs: int) -> None:
        super().__init__(
            f"Nothing was started: {stop.person_label} pulled the emergency stop, and it holds "
            f"{runs} of these runs. Start them again after it has ended, or remove them from the list."
        )


class NothingLeft(UserError):
    """The list has no run that can be cancelled or started."""

    def __init__(self) -> None:
        super().__init__("No run is left in this list, so nothing was sent. Go back and select other runs.")


@transaction.atomic
def create_batch(
    team: Team,
    *,
    run_ids: Sequence[uuid.UUID],
    reason: str,
    by: Actor,
    source: BatchSource,
    filters: str = "",
    previous: CancelBatch | None = None,
    stop: EmergencyStop | None = None,
) -> CancelBatch:
    """Create a batch of these runs of the team and start it, without a preview.

    Runs that are not active are skipped and counted. Runs in the caller's transaction, if there is one. Wake a worker
    (`jobs.wake_batch`) after the commit.
    """
    active, passed_over = active_of(team, run_ids)
    origin: dict[str, Any] = {"source": source, "filters": filters, "previous": previous, "stop": stop}
    batch = make(team, active, **origin, passed_over=passed_over)
    _begin(batch, reason=reason, by=by)
    return batch


def confirm(batch: CancelBatch, *, reason: str, by: Actor, options: StartOptions | None = None) -> CancelBatch:
    """Start the batch. Runs that match the filter only now are not added, but counted.

    A batch that was confirmed before is returned unchanged. `options`: for runs to start again; their request bodies
    are fixed here. Raises Held and NothingLeft.
    """
    with transaction.atomic(durable=True):
        held = CancelBatch.objects.select_for_update(of=("self",), no_key=True).select_related("team").get(pk=batch.pk)
        if held.state == BatchState.DRAFT:
            if is_resting():
                raise UserError(f"Nothing was sent. {RESTING}")
            if not held.items.filter(state=ItemState.QUEUED).exists():
                raise NothingLeft
            if held.kind == BatchKind.TRIGGER:
                _prepare_starts(held, options or StartOptions())
            _begin(held, reason=reason, by=by, left_out=matching_since(held))
    return held


def remove(batch: CancelBatch, *, run_ids: Sequence[uuid.UUID]) -> int:
    """Remove runs from a draft. Returns how many were removed: none, once the batch is confirmed."""
    with transaction.atomic(durable=True):
        held = CancelBatch.objects.select_for_update(of=("self",), no_key=True).get(pk=batch.pk)
        if held.state != BatchState.DRAFT:
            return 0
        return held.items.filter(run__in=run_ids).delete()[0]


def abort(batch: CancelBatch, *, by: Actor) -> bool:
    """Send nothing more; requests already sent are still tracked. False if the batch was not working."""
    return _stop(batch.pk, why=KIND_FACTS[batch.kind].by_person.format(who=by.label), actor=by)


def give_up(batch_id: uuid.UUID, *, why: str) -> bool:
    """Abort the batch as the worker. False if it was not working."""
    return _stop(batch_id, why=why, actor=None)


def _stop(batch_id: uuid.UUID, *, why: str, actor: Actor | None) -> bool:
    with transaction.atomic(durable=True):
        held = _locked(batch_id)
        if held.state != BatchState.WORKING:
            return False
        stop(held, why=why, actor=actor)
    return True


def stop(batch: CancelBatch, *, why: str, actor: Actor | None) -> None:
    """Abort the batch, in a transaction that holds its lock. Records as the last statement. Without `actor`, a worker
    does it.
    """
    now = timezone.now()
    batch.state, batch.aborted_at, batch.why_aborted, batch.due_at = BatchState.ABORTED, now, why, now
    leave_out(batch)
    counts = counts_of(batch)
    if not counts.get(ItemState.SENT):
        batch.finished_at = now
    batch.save(update_fields=["state", "aborted_at", "why_aborted", "due_at", "finished_at"])
    Team.bump(batch.team_id)
    _record(batch, "aborted", _summary(counts) | ({"why": why} if why else {}), by=actor or WORKER)


def finish(batch: CancelBatch) -> bool:
    """If every item has its outcome, close the batch and record the summary, once. True if this call did it."""
    if batch.items.filter(state__in=OPEN_ITEMS).exists():
        return False
    with transaction.atomic(durable=True):
        held = _locked(batch.pk)
        if held.finished_at is not None or held.items.filter(state__in=OPEN_ITEMS).exists():
            return False
        held.finished_at = timezone.now()
        if held.state == BatchState.WORKING:
            held.state = BatchState.FINISHED
        held.save(update_fields=["finished_at", "state"])
        Team.bump(held.team_id)
        _record(held, "finished", _summary(counts_of(held)), by=actor_of(held))
    return True


def forget_finished() -> bool:
    """Delete a chunk of batches that finished before the retention period of runs. True if there may be more."""
    old = CancelBatch.objects.filter(finished_at__lt=retention.kept_since()).order_by("finished_at")
    ids = list(old.values_list("pk", flat=True)[:CHUNK])
    CancelBatch.objects.filter(pk__in=ids).delete()
    return len(ids) == CHUNK


def counts_of(batch: CancelBatch) -> dict[str, int]:
    """The number of items in each state."""
    rows = CancelItem.objects.filter(batch=batch).values_list("state").annotate(number=Count("pk"))
    return dict(rows.order_by("state"))


def actor_of(batch: CancelBatch, role: str | None = None) -> Actor:
    """The person who confirmed it, as they were then. `role`: the role they have now."""
    return Actor(**batch.asker | ({"role": role} if role else {}), person=batch.person)


def _locked(batch_id: uuid.UUID) -> CancelBatch:
    return (
        CancelBatch.objects.select_for_update(of=("self",), no_key=True)
        .select_related("team", "person")
        .get(pk=batch_id)
    )


def _prepare_starts(batch: CancelBatch, options: StartOptions) -> None:
    """Fix what is sent for each run. Raises Held."""
    items = list(batch.items.filter(state=ItemState.QUEUED).select_related("run__task").order_by("pk"))
    holding = EmergencyStop.objects.holding().filter(team=batch.team_id).first()
    held = sum(holding.holds(item.run.task) for item in items) if holding is not None else 0
    if holding is not None and held:
        raise Held(holding, held)
    bodies_of(items, options)
    CancelItem.objects.bulk_update(items, ["body"], batch_size=100)
    batch.options = options.as_json()


def _begin(batch: CancelBatch, *, reason: str, by: Actor, left_out: int = 0) -> None:
    """Let workers act on the listed runs in this person's name. Records as the last statement of the transaction."""
    now = timezone.now()
    batch.state, batch.started_at, batch.due_at = BatchState.WORKING, now, now
    batch.person, batch.person_label, batch.person_role = by.person, by.label, by.role
    batch.asker = {it.name: getattr(by, it.name) for it in fields(by) if it.name != "person"}
    batch.reason, batch.left_out = clean_line(reason, LONGEST_REASON), left_out
    batch.save()
    Team.bump(batch.team_id)
    _record(batch, "requested", _details(batch), by=by)


def _record(batch: CancelBatch, outcome: str, details: dict[str, Any], *, by: Actor) -> None:
    record(
        KIND_FACTS[batch.kind].event,
        outcome,
        by=by,
        team=batch.team,
        target=Target("batch", str(batch.pk), f"{batch.items.count()} runs"),
        operation_id=batch.pk,
        reason=batch.reason,
        details={"batch_id": str(batch.pk)} | details,
    )


def _summary(counts: dict[str, int]) -> dict[str, Any]:
    return {"runs": sum(counts.values()), "counts": counts}


def _details(batch: CancelBatch) -> dict[str, Any]:
    """The counts by task and by status at this moment: what the person saw before confirming."""
    items = batch.items.filter(state=ItemState.QUEUED)
    by_task = items.values_list("run__task__arize_id").annotate(runs=Count("pk")).order_by("-runs")
    by_status = items.values_list("run__status").annotate(runs=Count("pk")).order_by("run__status")
    tasks = list(by_task)
    options = batch.options if batch.kind == BatchKind.TRIGGER else {}
    return options | {
        "source": batch.source,
        "filters": batch.filters,
        "runs": sum(number for _, number in tasks),
        "passed_over": batch.passed_over,
        "left_out": batch.left_out,
        "tasks": dict(tasks[:_TASKS_NAMED]),
        "statuses": dict(by_status),
        "previous_batch": str(batch.previous_id) if batch.previous_id else None,
        "stop": str(batch.stop_id) if batch.stop_id else None,
    }
