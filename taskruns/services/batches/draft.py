"""Makes the draft of a batch: its exact list of runs. No run is added later, and a draft cancels nothing."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import (
    CANCEL_FACTS,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    Effect,
    ItemState,
    Outcome,
    Run,
    Team,
    User,
)
from taskruns.services.runs.matching import matching

_CHUNK = 500  # ids in one statement; some builds of SQLite accept only 999 parameters
DRAFTS_KEPT = timedelta(days=1)
MOST_DRAFTS = 5  # of one person, in all teams: a draft may list every active run
# Items in these states may have runs that are still active. A retry takes them.
NOT_STOPPED = (*(it for it, facts in CANCEL_FACTS.items() if facts.effect is Effect.NOT_STOPPED), ItemState.LEFT_OUT)


def draft_of(
    team: Team,
    *,
    run_ids: Sequence[uuid.UUID],
    source: BatchSource,
    filters: str = "",
    previous: CancelBatch | None = None,
    drafted_by: User | None = None,
) -> CancelBatch | None:
    """A draft of those runs that belong to the team and are active. None if there are none.

    The person's oldest drafts beyond MOST_DRAFTS are deleted.
    """
    active, passed_over = active_of(team, run_ids)
    if not active:
        return None
    origin = {"source": source, "filters": filters, "previous": previous, "drafted_by": drafted_by}
    with transaction.atomic():
        batch = make(team, active, **origin, passed_over=passed_over)
        if drafted_by is not None:
            _forget_surplus(drafted_by)
    return batch


def draft_matching(team: Team, wanted: BoardFilter, *, drafted_by: User | None = None) -> CancelBatch | None:
    """A draft of all active runs that match the filter now. The caller must have refused an empty filter."""
    ids, filters = _matching_ids(team, wanted), wanted.query()
    return draft_of(team, run_ids=ids, source=BatchSource.FILTER, filters=filters, drafted_by=drafted_by)


def draft_retry(batch: CancelBatch, *, drafted_by: User | None = None) -> CancelBatch | None:
    """A draft of the runs that a batch did not stop and that are still active."""
    ids = list(not_stopped(batch).values_list("run", flat=True))
    return draft_of(batch.team, run_ids=ids, source=BatchSource.RETRY, previous=batch, drafted_by=drafted_by)


def not_stopped(batch: CancelBatch) -> QuerySet[CancelItem]:
    """Includes runs whose cancel Arize confirmed, but which were seen active later."""
    still_active = Q(state=Outcome.CONFIRMED, run__rank=1)
    return CancelItem.objects.filter(Q(state__in=NOT_STOPPED) | still_active, batch=batch)


def matching_since(batch: CancelBatch) -> int:
    """How many active runs match the batch's filter now, but did not when its list was made."""
    if batch.source != BatchSource.FILTER:
        return 0
    wanted = BoardFilter.parse(QueryDict(batch.filters.removeprefix("?")))
    listed = set(batch.items.values_list("run_id", flat=True))
    return len(set(_matching_ids(batch.team, wanted)) - listed)


def forget_drafts() -> int:
    """Delete old drafts that were not confirmed. Returns how many rows."""
    old = CancelBatch.objects.filter(state=BatchState.DRAFT, created_at__lt=timezone.now() - DRAFTS_KEPT)
    return old.delete()[0]


def _forget_surplus(person: User) -> None:
    drafts = CancelBatch.objects.filter(drafted_by=person, state=BatchState.DRAFT)
    surplus = list(drafts.order_by("-created_at", "-pk").values_list("pk", flat=True)[MOST_DRAFTS:])
    # Lock first: a draft that is being confirmed is no longer a draft when we get the lock, and must stay.
    held = [batch.pk for batch in drafts.select_for_update(of=("self",)).filter(pk__in=surplus)]
    CancelBatch.objects.filter(pk__in=held).delete()


@transaction.atomic
def make(team: Team, run_ids: Sequence[uuid.UUID], **fields: Any) -> CancelBatch:
    batch = CancelBatch.objects.create(team=team, **fields)
    for chunk in _chunks(run_ids):
        CancelItem.objects.bulk_create([CancelItem(batch=batch, run_id=pk) for pk in chunk])
    return batch


def active_of(team: Team, run_ids: Sequence[uuid.UUID]) -> tuple[list[uuid.UUID], int]:
    """The active runs, newest first as on the board, and the number of the other runs."""
    wanted = list(dict.fromkeys(run_ids))
    rows = [row for chunk in _chunks(wanted) for row in _active(team, chunk)]
    return [pk for _, pk in sorted(rows, reverse=True)], len(wanted) - len(rows)


def _matching_ids(team: Team, wanted: BoardFilter) -> list[uuid.UUID]:
    return list(matching(team, wanted, now=timezone.now()).filter(rank=1).values_list("pk", flat=True))


def _active(team: Team, run_ids: Sequence[uuid.UUID]) -> Iterable[tuple[datetime, uuid.UUID]]:
    return Run.objects.filter(team=team, pk__in=run_ids, rank=1).values_list("sorted_at", "pk")


def _chunks(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[at : at + _CHUNK] for at in range(0, len(ids), _CHUNK))
