"""Pulls a team's emergency stop, lifts it, and ends it when it expires."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import (
    LONGEST_REASON,
    BatchSource,
    BatchState,
    CancelBatch,
    Credential,
    EmergencyStop,
    StopEnd,
    Task,
    Team,
    User,
)
from taskruns.models.restores import is_resting
from taskruns.permissions import Access, Action, access_of
from taskruns.services import batches
from taskruns.services.credentials import pauses
from taskruns.services.remote_acts import sum_of_all
from taskruns.services.runs import retention
from taskruns.services.user_errors import RESTING, UserError

from .hold import held_runs

CLOCK = Actor.job("stops")
CHUNK = 500
_WHY_DROPPED = {
    StopEnd.LIFTED: "The emergency stop was lifted. The remaining cancels were not sent.",
    StopEnd.EXPIRED: "The emergency stop expired. The remaining cancels were not sent.",
}


class AlreadyPulled(UserError):
    """A team has one stop at a time. `stop` is the active one."""

    def __init__(self, stop: EmergencyStop) -> None:
        super().__init__(f"{stop.person_label} has already pulled the emergency stop. Nothing was changed.")
        self.stop = stop


class MayNotLift(Exception):
    """Only a manager, or the person who pulled the stop, may lift it."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """`batch` cancels the active runs; wake it. None if no run was active."""

    stop: EmergencyStop
    batch: CancelBatch | None
    runs: int


@transaction.atomic
def pull(team: Team, *, reason: str, left_out: Sequence[Task], by: Actor) -> Pulled:
    """Stop the team. The stop, its audit row and the batch of cancels are one transaction.

    Raises AlreadyPulled, and UserError if the reason is empty.
    """
    why = clean_line(reason, LONGEST_REASON)
    if not why:
        raise UserError("Enter a reason. The whole team will see it.", field="reason")
    if is_resting():
        raise UserError(f"The emergency stop was not pulled. {RESTING}", field="reason")
    # Keys first, because locks are taken in one order: keys, runs, team, log. New runs must not wait until the next
    # reading is due, nor for a long pause after a failure.
    list(Credential.objects.usable().filter(team=team).order_by("pk").select_for_update(of=("self",), no_key=True))
    Credential.objects.usable().filter(team=team).update(next_refresh_at=timezone.now())
    pauses.shorten([team.pk], pauses.STOP_PAUSE)
    _end_overdue(team)
    stop = _insert(team, why, left_out, by)
    ids = list(held_runs(stop).values_list("pk", flat=True))
    batch = _cancel(stop, ids, by) if ids else None
    Team.bump(team.pk)
    details: dict[str, Any] = {
        "expires_at": stop.expires_at.isoformat(),
        "active_runs": len(ids),
        "left_out": stop.left_out,
        "batch_id": str(batch.pk) if batch else None,
    }
    _record(EventType.STOP_PULL, stop, by=by, reason=why, details=details)
    return Pulled(stop, batch, len(ids))


@transaction.atomic
def lift(team: Team, *, by: Actor) -> EmergencyStop | None:
    """Lift the team's stop and drop its queued cancels. None if no stop is active. Raises MayNotLift."""
    stop = _locked(team)
    if stop is None:
        return None
    if not may_lift(stop, person=by.person, access=access_of(by.person, team)):
        raise MayNotLift
    _end(stop, StopEnd.LIFTED, EventType.STOP_LIFT, by=by)
    return stop


def may_lift(stop: EmergencyStop, *, person: User | None, access: Access) -> bool:
    """A manager, or the person who pulled it while they still have the right to pull."""
    is_owner = person is not None and stop.person_id == person.pk
    return access.may(Action.STOP_LIFT) or (is_owner and access.may(Action.STOP_PULL))


def expire(*, by: Actor = CLOCK) -> int:
    """End every expired stop. Returns how many."""
    overdue = EmergencyStop.objects.filter(end=StopEnd.HOLDING, expires_at__lte=timezone.now())
    teams = Team.objects.filter(pk__in=overdue.values("team"))
    return sum_of_all(partial(_end_overdue, team, by=by) for team in teams)


@transaction.atomic
def _end_overdue(team: Team, *, by: Actor = CLOCK) -> bool:
    stop = _locked(team, is_overdue=True)
    if stop is None:
        return False
    _end(stop, StopEnd.EXPIRED, EventType.STOP_EXPIRE, by=by)
    return True


def _locked(team: Team, *, is_overdue: bool = False) -> EmergencyStop | None:
    """The active stop; with `is_overdue`, the expired one that is not ended yet. Locked."""
    now = timezone.now()
    time = {"expires_at__lte": now} if is_overdue else {"expires_at__gt": now}
    stops = EmergencyStop.objects.filter(team=team, end=StopEnd.HOLDING, **time)
    return stops.select_for_update(of=("self",), no_key=True).select_related("team").first()


def _insert(team: Team, reason: str, left_out: Sequence[Task], by: Actor) -> EmergencyStop:
    try:
        with transaction.atomic():
            return EmergencyStop.objects.create(
                team=team,
                person=by.person,
                person_label=by.label,
                person_role=by.role,
                reason=reason,
                left_out=EmergencyStop.ids_of(left_out),
            )
    except IntegrityError:
        first = EmergencyStop.objects.filter(team=team, end=StopEnd.HOLDING).first()
        if first is None:
            raise
        raise AlreadyPulled(first) from None


def _cancel(stop: EmergencyStop, ids: Sequence[uuid.UUID], by: Actor) -> CancelBatch:
    return batches.create_batch(stop.team, run_ids=ids, reason=stop.reason, by=by, source=BatchSource.STOP, stop=stop)


def _end(stop: EmergencyStop, end: StopEnd, event: EventType, *, by: Actor) -> None:
    stop.end, stop.ended_at, stop.ended_by_label = end, timezone.now(), by.label
    stop.save(update_fields=["end", "ended_at", "ended_by_label"])
    for batch in _working_batches(stop):
        batches.stop(batch, why=_WHY_DROPPED[end], actor=by)
    Team.bump(stop.team_id)
    details = {"pulled_by": stop.person_label, "pulled_at": stop.pulled_at.isoformat()}
    _record(event, stop, by=by, details=details)


def _working_batches(stop: EmergencyStop) -> QuerySet[CancelBatch]:
    working = CancelBatch.objects.filter(stop=stop, state=BatchState.WORKING).order_by("pk")
    return working.select_for_update(of=("self",), no_key=True).select_related("team", "person")


def _record(event: EventType, stop: EmergencyStop, *, by: Actor, details: dict[str, Any], reason: str = "") -> None:
    record(
        event,
        "done",
        by=by,
        team=stop.team,
        target=Target("stop", str(stop.pk), f"emergency stop of {stop.team}"),
        operation_id=stop.pk,
        reason=reason,
        details={"stop": str(stop.pk), **details},
    )


def forget_ended() -> bool:
    """Delete a chunk of stops that ended before the retention period of runs and whose batches are deleted.

    True if there may be more.
    """
    old = EmergencyStop.objects.exclude(end=StopEnd.HOLDING).filter(ended_at__lt=retention.kept_since(), batches=None)
    ids = list(old.order_by("ended_at").values_list("pk", flat=True)[:CHUNK])
    EmergencyStop.objects.filter(pk__in=ids).delete()
    return len(ids) == CHUNK
