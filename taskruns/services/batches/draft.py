"""Makes the draft of a batch: its exact list of runs. No run is added later, and a draft sends nothing."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import (
    CANCEL_FACTS,
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    Effect,
    ItemState,
    Outcome,
    Run,
    Team,
    TriggerOutcome,
    User,
)
from taskruns.services.runs.matching import matching, matching_active
from taskruns.services.user_errors import UserError

from .startable import RESTARTABLE, states_of

_CHUNK = 500  # ids in one statement; some builds of SQLite accept only 999 parameters
DRAFTS_KEPT = timedelta(days=1)
MOST_DRAFTS = 5  # of one person, in all teams: a draft may list every active run
# Items in these states may have runs that are still active. A retry takes them.
NOT_STOPPED = (*(it for it, facts in CANCEL_FACTS.items() if facts.effect is Effect.NOT_STOPPED), ItemState.LEFT_OUT)
# Nothing was started for these, so a retry cannot start a second run. `unknown` is not among them.
NOT_STARTED = (TriggerOutcome.REFUSED, TriggerOutcome.NOT_SENT, ItemState.HELD, ItemState.LEFT_OUT)
MOST_STARTS = 1_000  # of one batch: each may cost the team money


class TooManyStarts(UserError):
    """No list was made."""

    def __init__(self) -> None:
        super().__init__(
            f"More than {MOST_STARTS:,} runs were chosen, so no list was made. Set a narrower filter, for example on "
            "the time or the task."
        )


def draft_of(
    team: Team,
    *,
    run_ids: Sequence[uuid.UUID],
    source: BatchSource,
    kind: BatchKind = BatchKind.CANCEL,
    filters: str = "",
    previous: CancelBatch | None = None,
    drafted_by: User | None = None,
) -> CancelBatch | None:
    """A draft of those runs that belong to the team and are active, or, to start them again, have failed or were
    cancelled. None if there are none. Raises TooManyStarts.

    The person's oldest drafts beyond MOST_DRAFTS are deleted.
    """
    chosen, passed_over = (active_of if kind is BatchKind.CANCEL else _ended_of)(team, run_ids)
    if not chosen:
        return None
    origin = {"kind": kind, "source": source, "filters": filters, "previous": previous, "drafted_by": drafted_by}
    origin |= {"options": previous.options} if previous is not None else {}
    with transaction.atomic():
        states = _states_of(chosen) if kind is BatchKind.TRIGGER else {}
        batch = make(team, chosen, states=states, **origin, passed_over=passed_over)
        if drafted_by is not None:
            _forget_surplus(drafted_by)
    return batch


def draft_matching(
    team: Team, wanted: BoardFilter, *, kind: BatchKind = BatchKind.CANCEL, drafted_by: User | None = None
) -> CancelBatch | None:
    """A draft of all runs of this kind that match the filter now. The caller must have refused an empty filter."""
    ids, filters = _matching_ids(team, wanted, kind), wanted.query()
    return draft_of(team, run_ids=ids, source=BatchSource.FILTER, kind=kind, filters=filters, drafted_by=drafted_by)


def draft_retry(batch: CancelBatch, *, drafted_by: User | None = None) -> CancelBatch | None:
    """A draft of the runs that a batch did not stop and that are still active, or did not start again."""
    rest = not_stopped(batch) if batch.kind == BatchKind.CANCEL else not_started(batch)
    ids, kind = list(rest.values_list("run", flat=True)), BatchKind(batch.kind)
    return draft_of(batch.team, run_ids=ids, source=BatchSource.RETRY, kind=kind, previous=batch, drafted_by=drafted_by)


def draft_again(batch: CancelBatch, *, drafted_by: User | None = None) -> CancelBatch | None:
    """A draft that starts the runs of a bulk cancel again, as far as they have failed or were cancelled."""
    ids, source = list(batch.items.values_list("run", flat=True)), BatchSource.BATCH
    return draft_of(
        batch.team, run_ids=ids, source=source, kind=BatchKind.TRIGGER, previous=batch, drafted_by=drafted_by
    )


def not_started(batch: CancelBatch) -> QuerySet[CancelItem]:
    """Runs for which a start had no effect, or none was sent."""
    return CancelItem.objects.filter(batch=batch, state__in=NOT_STARTED)


def not_stopped(batch: CancelBatch) -> QuerySet[CancelItem]:
    """Includes runs whose cancel Arize confirmed, but which were seen active later."""
    still_active = Q(state=Outcome.CONFIRMED, run__rank=1)
    return CancelItem.objects.filter(Q(state__in=NOT_STOPPED) | still_active, batch=batch)


def matching_since(batch: CancelBatch) -> int:
    """How many runs match the batch's filter now, but are not in its list."""
    if batch.source != BatchSource.FILTER:
        return 0
    wanted = BoardFilter.parse(QueryDict(batch.filters.removeprefix("?")))
    listed = set(batch.items.values_list("run_id", flat=True))
    return len(set(_matching_ids(batch.team, wanted, BatchKind(batch.kind))) - listed)


def forget_drafts() -> int:
    """Delete old drafts that were not confirmed. Returns how many rows."""
    old = CancelBatch.objects.filter(state=BatchState.DRAFT, created_at__lt=timezone.now() - DRAFTS_KEPT)
    with transaction.atomic():
        # Lock first: a draft that is being confirmed is no longer a draft when we get the lock, and must stay.
        held = [batch.pk for batch in old.order_by("pk").select_for_update(of=("self",))]
        return CancelBatch.objects.filter(pk__in=held).delete()[0]


def _forget_surplus(person: User) -> None:
    drafts = CancelBatch.objects.filter(drafted_by=person, state=BatchState.DRAFT)
    surplus = list(drafts.order_by("-created_at", "-pk").values_list("pk", flat=True)[MOST_DRAFTS:])
    # Lock first: a draft that is being confirmed is no longer a draft when we get the lock, and must stay.
    held = [batch.pk for batch in drafts.select_for_update(of=("self",)).filter(pk__in=surplus)]
    CancelBatch.objects.filter(pk__in=held).delete()


@transaction.atomic
def make(
    team: Team, run_ids: Sequence[uuid.UUID], *, states: Mapping[uuid.UUID, ItemState] | None = None, **fields: Any
) -> CancelBatch:
    """`states`: of runs that are not simply queued."""
    batch, known = CancelBatch.objects.create(team=team, **fields), states or {}
    for chunk in _chunks(run_ids):
        items = [CancelItem(batch=batch, run_id=pk, state=known.get(pk, ItemState.QUEUED)) for pk in chunk]
        CancelItem.objects.bulk_create(items)
    return batch


def active_of(team: Team, run_ids: Sequence[uuid.UUID]) -> tuple[list[uuid.UUID], int]:
    """The active runs, newest first as on the board, and the number of the other runs."""
    return _split(team, run_ids, OF_KIND[BatchKind.CANCEL])


def _ended_of(team: Team, run_ids: Sequence[uuid.UUID]) -> tuple[list[uuid.UUID], int]:
    """The same for the runs that can be started again. Raises TooManyStarts."""
    if len(run_ids) > MOST_STARTS:
        raise TooManyStarts
    return _split(team, run_ids, OF_KIND[BatchKind.TRIGGER])


# Which runs a batch may list.
OF_KIND = {BatchKind.CANCEL: Q(rank=1), BatchKind.TRIGGER: Q(status__in=RESTARTABLE)}


def _split(team: Team, run_ids: Sequence[uuid.UUID], which: Q) -> tuple[list[uuid.UUID], int]:
    wanted = list(dict.fromkeys(run_ids))
    rows = [row for chunk in _chunks(wanted) for row in _chosen(team, chunk, which)]
    return [pk for _, pk in sorted(rows, reverse=True)], len(wanted) - len(rows)


def _states_of(run_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, ItemState]:
    chunks = (Run.objects.filter(pk__in=chunk).select_related("task") for chunk in _chunks(run_ids))
    return states_of([run for chunk in chunks for run in chunk.defer("as_read")])


def _matching_ids(team: Team, wanted: BoardFilter, kind: BatchKind) -> list[uuid.UUID]:
    runs = (matching_active if kind is BatchKind.CANCEL else matching)(team, wanted, now=timezone.now())
    return list(runs.filter(OF_KIND[kind]).values_list("pk", flat=True))


def _chosen(team: Team, run_ids: Sequence[uuid.UUID], which: Q) -> Iterable[tuple[datetime, uuid.UUID]]:
    return Run.objects.filter(which, team=team, pk__in=run_ids).values_list("sorted_at", "pk")


def _chunks(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[at : at + _CHUNK] for at in range(0, len(ids), _CHUNK))
