"""Making the list: which runs, exactly. Nothing is added to it later."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import BatchSource, BatchState, CancelBatch, CancelItem, EmergencyStop, Run, Team

REASON_LENGTH = 512
_PORTION = 500  # ids in one statement: SQLite takes no more than 999 parameters everywhere
_TASKS_NAMED = 50


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
    """Freeze these runs of the team and let the workers begin: for acts that need no preview of their own.

    Runs that are not active are passed over. The rows are one transaction, or part of the caller's; wake a worker
    (`jobs.wake_batch`) when it is committed.
    """
    batch = freeze(team, run_ids=run_ids, source=source, filters=filters, previous=previous, stop=stop)
    start(batch, reason=reason, by=by)
    return batch


@transaction.atomic
def freeze(
    team: Team,
    *,
    run_ids: Sequence[uuid.UUID],
    source: BatchSource,
    filters: str = "",
    previous: CancelBatch | None = None,
    stop: EmergencyStop | None = None,
) -> CancelBatch:
    """A draft of the runs among these that are the team's and active. A draft does nothing."""
    wanted = list(dict.fromkeys(run_ids))
    active = [pk for portion in _portions(wanted) for pk in _active(team, portion)]
    passed_over = len(wanted) - len(active)
    batch = CancelBatch.objects.create(
        team=team, source=source, filters=filters, previous=previous, stop=stop, passed_over=passed_over
    )
    items = (CancelItem(batch=batch, run_id=pk) for pk in active)
    while portion := list(islice(items, _PORTION)):
        CancelItem.objects.bulk_create(portion)
    return batch


def start(batch: CancelBatch, *, reason: str, by: Actor, left_out: int = 0) -> None:
    """The act itself: from now on workers cancel what is on the list, in this person's name. Part of a transaction.

    Its row is the last statement.
    """
    now = timezone.now()
    batch.state, batch.started_at, batch.due_at = BatchState.WORKING, now, now
    batch.person, batch.person_label, batch.person_role = by.person, by.label, by.role
    batch.asker, batch.reason, batch.left_out = as_json(by), clean_line(reason, REASON_LENGTH), left_out
    batch.save()
    Team.bump(batch.team_id)
    record(
        EventType.RUN_CANCEL_MANY,
        "requested",
        by=by,
        team=batch.team,
        target=target_of(batch),
        operation_id=batch.pk,
        reason=batch.reason,
        details=_details(batch),
    )


def target_of(batch: CancelBatch) -> Target:
    return Target("batch", str(batch.pk), f"{batch.items.count()} runs")


def as_json(by: Actor) -> dict[str, Any]:
    return {it.name: getattr(by, it.name) for it in fields(by) if it.name != "person"}


def _portions(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[at : at + _PORTION] for at in range(0, len(ids), _PORTION))


def _active(team: Team, ids: Iterable[uuid.UUID]) -> list[uuid.UUID]:
    """In the order of the board, active runs only."""
    rows = Run.objects.filter(team=team, pk__in=list(ids), rank=1)
    return list(rows.order_by("-sorted_at", "-pk").values_list("pk", flat=True))


def _details(batch: CancelBatch) -> dict[str, Any]:
    """Counts at that moment, by task and by status: what the person had before their eyes."""
    by_task = batch.items.values_list("run__task__arize_id").annotate(runs=Count("pk")).order_by("-runs")
    by_status = batch.items.values_list("run__status").annotate(runs=Count("pk")).order_by("run__status")
    tasks = list(by_task)
    return {
        "batch_id": str(batch.pk),
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
