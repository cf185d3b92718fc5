"""What a stop cancels: the active runs of all tasks that are not left out, when it is pulled and while it holds.

The hold acts in the name of the person who pulled the stop, with the role they have then; it does nothing while they
may not pull one. What is due is a batch of its own each time: `services/batches` sends, follows and records each run.
"""

import uuid
from datetime import timedelta

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import (
    BatchSource,
    CancelBatch,
    CancelItem,
    EmergencyStop,
    ItemState,
    Run,
    SiteRole,
    Team,
    TeamRole,
)
from taskruns.permissions import Access, Action, access_of, granted
from taskruns.services import batches

# A run that stays active in spite of its cancel is tried again, a few times.
TRIED_AGAIN_AFTER = timedelta(seconds=60)
MOST_TRIES = 3


def standing(team: Team) -> EmergencyStop | None:
    """The stop that the team is under, with the role that its owner has now. One query: each page of the team asks."""
    return EmergencyStop.objects.holding().with_owner().filter(team=team).first()


def is_paused(stop: EmergencyStop) -> bool:
    """The hold acts for its owner: while they may not stop runs, it does nothing. Expects `owner_role`."""
    role = TeamRole(stop.owner_role) if stop.owner_role else None
    return not granted(SiteRole.NONE, role).may(Action.STOP_PULL)


def held_runs(stop: EmergencyStop) -> QuerySet[Run]:
    return Run.objects.filter(team=stop.team_id, rank=1).exclude(task__in=stop.left_out_ids)


def hold(team_id: uuid.UUID) -> CancelBatch | None:
    """Cancel what has become active under the team's stop, if there is one: the batch to wake, or None.

    Called after each reading of Arize, outside its transactions. Two callers at once take turns at the stop's row, and
    the second finds nothing to do.
    """
    holding = EmergencyStop.objects.holding().filter(team=team_id)
    if not holding.exists():
        return None
    with transaction.atomic():
        stop = holding.select_for_update(of=("self",), no_key=True).select_related("team", "person").first()
        access = access_of(stop.person, stop.team) if stop is not None else None
        if stop is None or access is None or not access.may(Action.STOP_PULL):
            return None
        ids = list(_due(stop).values_list("pk", flat=True))
        if not ids:
            return None
        return batches.create_batch(
            stop.team, run_ids=ids, reason=stop.reason, by=_owner(stop, access), source=BatchSource.STOP, stop=stop
        )


def hold_of(credential_id: uuid.UUID) -> CancelBatch | None:
    """After a round of reading with this key."""
    team = EmergencyStop.objects.holding().filter(team__credentials=credential_id).values_list("team", flat=True)
    team_id = team.first()
    return None if team_id is None else hold(team_id)


def hold_all() -> list[CancelBatch]:
    """For the clock: a hold does not depend on its team's keys being read."""
    teams = list(EmergencyStop.objects.holding().values_list("team", flat=True))
    return [batch for team_id in teams if (batch := hold(team_id)) is not None]


def _due(stop: EmergencyStop) -> QuerySet[Run]:
    """Held runs that this stop has not tried yet, or has tried in vain some time ago.

    A run whose turn never came, because its batch was aborted, was not tried.
    """
    tried = CancelItem.objects.filter(batch__stop=stop).exclude(state=ItemState.LEFT_OUT)
    lately = Q(batch__finished_at=None) | Q(batch__finished_at__gt=timezone.now() - TRIED_AGAIN_AFTER)
    mine = Q(cancel_items__batch__stop=stop) & ~Q(cancel_items__state=ItemState.LEFT_OUT)
    runs = held_runs(stop).filter(~Exists(tried.filter(lately, run=OuterRef("pk"))))
    return runs.annotate(tries=Count("cancel_items", filter=mine)).filter(tries__lt=MOST_TRIES)


def _owner(stop: EmergencyStop, access: Access) -> Actor:
    """The person who pulled it, as they are now. They are not at the panel: no session, no address."""
    return Actor(
        type="user",
        id=str(stop.person_id),
        label=stop.person.label if stop.person else stop.person_label,
        role=access.role,
        request_id=str(uuid.uuid4()),
        person=stop.person,
    )
