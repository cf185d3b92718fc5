"""Making the list: which runs, exactly. Nothing is added to it later."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.forms import BoardFilter
from taskruns.models import (
    LONGEST_REASON,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    Effect,
    EmergencyStop,
    ItemState,
    Outcome,
    Run,
    Team,
)
from taskruns.services.runs.matching import matching

_PORTION = 500  # ids in one statement: SQLite takes no more than 999 parameters everywhere
_TASKS_NAMED = 50
DRAFTS_KEPT = timedelta(days=1)
# Its run may still be active: what "try these again" takes.
NOT_STOPPED = (*(it for it in Outcome if it.facts.effect is Effect.NOT_STOPPED), ItemState.LEFT_OUT)


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
    active, passed_over = _active_of(team, run_ids)
    fields = {"source": source, "filters": filters, "previous": previous, "stop": stop, "passed_over": passed_over}
    batch = _make(team, active, **fields)
    _begin(batch, reason=reason, by=by)
    return batch


def freeze(
    team: Team,
    *,
    run_ids: Sequence[uuid.UUID],
    source: BatchSource,
    filters: str = "",
    previous: CancelBatch | None = None,
) -> CancelBatch | None:
    """A draft of the runs among these that are the team's and active; None: there is none. A draft does nothing."""
    active, passed_over = _active_of(team, run_ids)
    if not active:
        return None
    return _make(team, active, source=source, filters=filters, previous=previous, passed_over=passed_over)


def freeze_matching(team: Team, wanted: BoardFilter) -> CancelBatch | None:
    """A draft of all active runs that the filter lets through now. The caller has refused an empty filter."""
    return freeze(team, run_ids=_matching_ids(team, wanted), source=BatchSource.FILTER, filters=wanted.query())


def freeze_again(batch: CancelBatch) -> CancelBatch | None:
    """A draft of those runs of a batch that it did not stop and that still are active."""
    ids = list(not_stopped(batch).values_list("run", flat=True))
    return freeze(batch.team, run_ids=ids, source=BatchSource.RETRY, previous=batch)


def not_stopped(batch: CancelBatch) -> QuerySet[CancelItem]:
    """Also those of which Arize said that they were cancelled, and that were seen to go on since."""
    goes_on = Q(state=Outcome.CONFIRMED, run__rank=1)
    return CancelItem.objects.filter(Q(state__in=NOT_STOPPED) | goes_on, batch=batch)


def confirm(batch: CancelBatch, *, reason: str, by: Actor) -> CancelBatch:
    """Begin. What ended meanwhile will be noted as not needed; what newly matches is left out, and counted.

    Once: a draft that was confirmed already is given back as it is.
    """
    with transaction.atomic(durable=True):
        held = CancelBatch.objects.select_for_update(of=("self",)).select_related("team").get(pk=batch.pk)
        if held.state == BatchState.DRAFT:
            _begin(held, reason=reason, by=by, left_out=_new_since(held))
    return held


def forget_drafts() -> int:
    """Previews that nobody confirmed."""
    old = CancelBatch.objects.filter(state=BatchState.DRAFT, created_at__lt=timezone.now() - DRAFTS_KEPT)
    return old.delete()[0]


def _new_since(batch: CancelBatch) -> int:
    if batch.source != BatchSource.FILTER:
        return 0
    wanted = BoardFilter.parse(QueryDict(batch.filters.removeprefix("?")))
    frozen = set(batch.items.values_list("run_id", flat=True))
    return len(set(_matching_ids(batch.team, wanted)) - frozen)


def _matching_ids(team: Team, wanted: BoardFilter) -> list[uuid.UUID]:
    return list(matching(team, wanted, now=timezone.now()).filter(rank=1).values_list("pk", flat=True))


def _begin(batch: CancelBatch, *, reason: str, by: Actor, left_out: int = 0) -> None:
    """The act itself: from now on workers cancel what is on the list, in this person's name. Part of a transaction.

    Its row is the last statement.
    """
    now = timezone.now()
    batch.state, batch.started_at, batch.due_at = BatchState.WORKING, now, now
    batch.person, batch.person_label, batch.person_role = by.person, by.label, by.role
    batch.asker, batch.reason, batch.left_out = as_json(by), clean_line(reason, LONGEST_REASON), left_out
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


def as_json(actor: Actor) -> dict[str, Any]:
    return {it.name: getattr(actor, it.name) for it in fields(actor) if it.name != "person"}


@transaction.atomic
def _make(team: Team, run_ids: Sequence[uuid.UUID], **fields: Any) -> CancelBatch:
    batch = CancelBatch.objects.create(team=team, **fields)
    for portion in _portions(run_ids):
        CancelItem.objects.bulk_create([CancelItem(batch=batch, run_id=pk) for pk in portion])
    return batch


def _active_of(team: Team, run_ids: Sequence[uuid.UUID]) -> tuple[list[uuid.UUID], int]:
    """The active ones, newest first as on the board, and the number of the others."""
    wanted = list(dict.fromkeys(run_ids))
    rows = [row for portion in _portions(wanted) for row in _active(team, portion)]
    return [pk for _, pk in sorted(rows, reverse=True)], len(wanted) - len(rows)


def _active(team: Team, run_ids: Sequence[uuid.UUID]) -> Iterable[tuple[datetime, uuid.UUID]]:
    return Run.objects.filter(team=team, pk__in=run_ids, rank=1).values_list("sorted_at", "pk")


def _portions(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[at : at + _PORTION] for at in range(0, len(ids), _PORTION))


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
