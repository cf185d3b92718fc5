"""The hold: while a stop is active, it cancels the active runs of all tasks that are not excluded.

It acts in the name of the person who pulled the stop, with their current role, and pauses while they have no right to
pull one. Each time it creates a batch; `services/batches` sends, tracks and records the cancels.
"""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, partial

from django.db import transaction
from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Subquery, UUIDField
from django.db.models.functions import Coalesce
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
from taskruns.models.batches import OPEN_ITEMS
from taskruns.models.prepared import Prepared, Slot, TimeSlot
from taskruns.models.restores import is_resting
from taskruns.models.stamps import long_ago
from taskruns.permissions import Access, Action, access_of, granted
from taskruns.services import batches
from taskruns.services.remote_acts import sum_of_all

# A run that is still active after its cancel is cancelled again: a few times soon, then ever more rarely, as long as
# the stop holds. Arize may recover at any time.
RETRY_AFTER = timedelta(seconds=60)
QUICK_ATTEMPTS = 3
LATER = tuple(timedelta(minutes=it) for it in (2, 4, 8, 10))


def active_stop(team: Team) -> EmergencyStop | None:
    """The team's active stop, with its owner's current role. One query, because every page of the team needs it."""
    return EmergencyStop.objects.holding().with_owner().filter(team=team).first()


def is_paused(stop: EmergencyStop) -> bool:
    """Whether the hold is paused because its owner has no right to pull a stop now. Expects `owner_role`."""
    role = TeamRole(stop.owner_role) if stop.owner_role else None
    return not granted(SiteRole.NONE, role).may(Action.STOP_PULL)


def held_runs(stop: EmergencyStop) -> QuerySet[Run]:
    return Run.objects.filter(team=stop.team_id, rank=1).exclude(task__in=stop.left_out_ids)


def hold(team_id: uuid.UUID) -> CancelBatch | None:
    """Cancel the runs that have become active under the team's stop. Returns the batch to wake, or None.

    Called after each round of the mirror, outside its transactions. Concurrent callers wait for the lock on the stop's
    row; the second one then finds nothing to do.
    """
    holding = EmergencyStop.objects.holding().filter(team=team_id)
    if not holding.exists() or is_resting():
        return None
    batches.hasten(CancelBatch.objects.filter(stop__in=holding))
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


def hold_after_round(credential_id: uuid.UUID) -> CancelBatch | None:
    """Hold the team of this credential, with which the mirror has just read."""
    stops = _of_key().rows(credential=credential_id, now=timezone.now())
    return hold(stops[0].team_id) if stops else None


@cache
def _of_key() -> Prepared[EmergencyStop]:
    """Each round needs it."""
    stops = EmergencyStop.objects.holding(TimeSlot()).filter(team__credentials=Slot("credential", UUIDField()))
    return Prepared(stops.only("team"))


def hold_all(then: Callable[[CancelBatch], None] = lambda _: None) -> int:
    """Hold every team with an active stop. The clock calls it, so that a hold works even if no round reads the team.

    `then`: called with each new batch. Returns how many.
    """

    def hold_one(team_id: uuid.UUID) -> int:
        batch = hold(team_id)
        if batch is not None:
            then(batch)
        return batch is not None

    teams = list(EmergencyStop.objects.holding().values_list("team", flat=True))
    return sum_of_all(partial(hold_one, team_id) for team_id in teams)


def _due(stop: EmergencyStop) -> QuerySet[Run]:
    """Held runs that this stop has not tried to cancel yet, or not lately.

    A queued cancel that was dropped with its batch is not an attempt. Nor is one that an outage of Arize prevented:
    once the run has been read again, it is cancelled again at once. Judged run by run: another run of the same batch
    may wait long, for example for a failing key.
    """
    tried = CancelItem.objects.filter(batch__stop=stop).exclude(state=ItemState.LEFT_OUT)
    tried = tried.annotate(ended=Coalesce("cancellation__closed_at", "batch__finished_at"))
    tried = tried.exclude(batches.was_in_vain() & Q(ended__isnull=False, ended__lt=F("run__observed_at")))
    mine = tried.filter(run=OuterRef("pk")).order_by()
    of_run = mine.values("run").annotate(number=Count("pk"), last=Max("ended"))
    runs = held_runs(stop).exclude(Exists(mine.filter(Q(state__in=OPEN_ITEMS) | Q(ended=None))))
    runs = runs.annotate(attempts=Subquery(of_run.values("number")), last=Subquery(of_run.values("last")))
    return runs.filter(_waited_enough(timezone.now()))


def _waited_enough(now: datetime) -> Q:
    """After as many attempts, the longer the distance. `attempts` is null without any."""
    enough = Q(attempts=None) | Q(long_ago("last", now, RETRY_AFTER), attempts__lt=QUICK_ATTEMPTS)
    for number, distance in enumerate(LATER, QUICK_ATTEMPTS):
        is_last = distance == LATER[-1]
        enough |= Q(long_ago("last", now, distance), **{"attempts__gte" if is_last else "attempts": number})
    return enough


def _owner(stop: EmergencyStop, access: Access) -> Actor:
    """The person who pulled it, with their current role."""
    label = stop.person.label if stop.person else stop.person_label
    return Actor.absent(stop.person, actor_id=str(stop.person_id), label=label, role=access.role)
