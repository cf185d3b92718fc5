"""Which credential is read when, and by whom: one round per credential at a time, over many workers.

A claim is a conditional UPDATE whose row count tells the winner. A worker that dies keeps its claim for LEASE only.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from taskruns.models import Credential, EmergencyStop, Run, Team
from taskruns.services.runs.observations import WATCHED_FOR

from .budget import Budget

# Longer than a single call with its repeats can last (28 s): a round renews its claim as answers come.
LEASE = timedelta(seconds=40)
RENEWED_EVERY = timedelta(seconds=5)
WATCHED = timedelta(seconds=5)
ACTIVE = timedelta(seconds=30)
IDLE = timedelta(minutes=5)
# From tick to round it takes up to a second (the queue's scheduler). So a key that is due within this time is not left
# for the next tick, and a round that is early or late by no more counts as begun when it was due: a 5 s pace is then
# never one of 10 s, nor faster with the ticks of many workers.
SLACK = timedelta(seconds=1.5)


def due(now: datetime) -> list[uuid.UUID]:
    """The credentials whose time has come."""
    free = Credential.objects.usable().filter(_is_free(now))
    return list(free.order_by("next_refresh_at").values_list("pk", flat=True))


def claim(credential_id: uuid.UUID, *, force: bool = False) -> Credential | None:
    """Take the credential for one round, or None: not due, held by another round, failing, or revoked.

    With `force` (a person at a shell) neither pace nor claims nor failure hold it back.
    """
    now = timezone.now()
    if not Credential.objects.live().filter(pk=credential_id).exists():
        return None
    # Only the row's own columns: with a join PostgreSQL does not look at them again after it has waited for another
    # worker's UPDATE, and both would win.
    may_begin = Q(revoked_at=None) if force else Q(revoked_at=None, failing_since=None) & _is_free(now)
    if not Credential.objects.filter(may_begin, pk=credential_id).update(claimed_until=now + LEASE):
        return None
    return Credential.objects.select_related("team").get(pk=credential_id)


def renew(credential: Credential, *, budget: Budget) -> None:
    """Called before each call and with each answer: a worker that lives keeps its claim, one that died loses it soon.

    What it spends is noted too, a portion ahead, so that the ceiling holds for the worker that takes over.
    """
    now = timezone.now()
    if credential.claimed_until is None:
        return
    if credential.claimed_until - now > LEASE - RENEWED_EVERY and not budget.needs_note():
        return
    mine = Credential.objects.filter(pk=credential.pk, claimed_until=credential.claimed_until)
    if mine.update(claimed_until=now + LEASE, recent_calls=budget.ahead()):
        credential.claimed_until = now + LEASE


def release(credential: Credential, *, began: datetime, goes_on: bool = False, **changes: Any) -> None:
    """End the round: the next one comes as soon as somebody's attention asks for it, or at once if it `goes_on`."""
    # The pace counts from beginning to beginning, or a round and a tick would be added to each wait.
    was_due = credential.next_refresh_at
    begun = was_due if abs(began - was_due) <= SLACK else began
    following = begun + (WATCHED if goes_on else _pace(credential))
    Credential.objects.filter(pk=credential.pk, claimed_until=credential.claimed_until).update(
        claimed_until=None, next_refresh_at=following
    )
    Credential.objects.filter(pk=credential.pk).update(**changes)


def _is_free(now: datetime) -> Q:
    unclaimed = Q(claimed_until=None) | Q(claimed_until__lte=now)
    not_waiting = Q(backoff_until=None) | Q(backoff_until__lte=now)
    return unclaimed & not_waiting & Q(next_refresh_at__lte=now + SLACK)


def is_watched(credential: Credential) -> bool:
    """Is a board of the team open somewhere?"""
    since = timezone.now() - WATCHED_FOR
    return Team.objects.filter(pk=credential.team_id, watched_at__gte=since).exists()


def _pace(credential: Credential) -> timedelta:
    if is_watched(credential):
        return WATCHED
    active = Run.objects.filter(team=credential.team_id, rank=1, task__credential=credential)
    # An emergency stop cancels what is read: new runs must not go on unseen for minutes.
    is_held = EmergencyStop.objects.holding().filter(team=credential.team_id)
    return ACTIVE if active.exists() or is_held.exists() else IDLE
