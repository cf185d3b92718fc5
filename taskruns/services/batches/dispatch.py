"""Opens requests for some runs of a batch in one durable transaction. Nothing is sent before it is committed.

The person's right is checked again, and the key's pace asked for slots. What is written for each run depends on the
kind of the batch.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.audit import append
from taskruns.models import BatchKind, BatchState, CancelBatch, CancelItem, ItemState, Team
from taskruns.models.stamps import over
from taskruns.permissions import access_of

from .actions import actor_of, stop
from .cancels import Cancels
from .kind import AnyKind, Opened
from .pace import LONGEST_WAIT, free_slots
from .starts import Starts

KINDS: dict[str, AnyKind] = {BatchKind.CANCEL: Cancels(), BatchKind.TRIGGER: Starts()}


@transaction.atomic(durable=True)
def open_some(batch_id: uuid.UUID, credential_id: uuid.UUID | None, *, most: int) -> list[Opened[Any]]:
    """Open up to `most` queued runs of one key, as its pace allows. Empty if none may be sent now."""
    batch = (
        CancelBatch.objects.select_for_update(of=("self",), no_key=True)
        .select_related("team", "person")
        .get(pk=batch_id)
    )
    if batch.state != BatchState.WORKING:
        return []
    kind = KINDS[batch.kind]
    slots = free_slots(credential_id, most=most)
    items = list(_due(batch, credential_id)[: len(slots.moments)]) if slots.moments else []
    # One check covers all runs of this transaction, because nothing is sent before it is committed.
    access = access_of(batch.person, batch.team)
    if not kind.facts.may(access):
        stop(batch, why=kind.facts.no_right.format(who=batch.person_label), actor=None)
        return []
    if not items:
        return []
    turns = kind.open(batch, items, actor_of(batch, access.role))
    slots.use(len(turns.to_send))
    Team.bump(batch.team_id)
    append(turns.rows)
    return [
        Opened(item, attempt, run, by, moment)
        for (item, attempt, run, by), moment in zip(turns.to_send, slots.moments, strict=False)
    ]


def may_try(now: datetime) -> Q:
    """Items that wait for nothing."""
    return over("next_try_at", now, timedelta(seconds=LONGEST_WAIT))


def _due(batch: CancelBatch, credential_id: uuid.UUID | None) -> Any:
    rows = CancelItem.objects.filter(may_try(timezone.now()), batch=batch, state=ItemState.QUEUED)
    of_key = rows.filter(run__task__credential=credential_id)
    return of_key.select_related("run").select_for_update(of=("self",), no_key=True).order_by("next_try_at", "pk")
