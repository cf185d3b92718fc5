"""Which key is read when, and by which worker: one round per key at a time, over many workers.

Attention decides the pace: a board of the team that is open somewhere. A claim is a conditional UPDATE whose row count
shows the winner; a worker that dies keeps its claim for LEASE only.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from taskruns.models import Credential, EmergencyStop, Run, Team

from .budget import Budget

# Longer than a single call with its retries can last (28 s): a round renews its claim as answers come.
LEASE = timedelta(seconds=40)
RENEWED_EVERY = timedelta(seconds=5)
# From the beginning of a round to that of the next one
ATTENTION_PACE = timedelta(seconds=5)
ACTIVE_PACE = timedelta(seconds=30)
IDLE_PACE = timedelta(minutes=5)
# From tick to round it takes up to a second (the queue's scheduler). So a key that is due within this time is not left
# for the next tick, and a round that is early or late by no more counts as begun when it was due: a 5 s pace is then
# never one of 10 s, nor faster with the ticks of many workers.
SLACK = timedelta(seconds=1.5)
ATTENTION_LASTS = timedelta(seconds=15)
ATTENTION_WRITTEN_EVERY = timedelta(seconds=5)


def has_attention(team: Team) -> bool:
    """Whether a board of the team is open somewhere, as the row was loaded."""
    return team.watched_at is not None and team.watched_at >= timezone.now() - ATTENTION_LASTS


def note_attention(teams: Iterable[Team]) -> list[uuid.UUID]:
    """The board of these teams is open: at most one write per 5 s. Returns the keys to wake.

    Where it was open nowhere before, the keys are due at once.
    """
    now = timezone.now()
    due = now - ATTENTION_WRITTEN_EVERY
    unnoted = [team for team in teams if team.watched_at is None or team.watched_at <= due]
    stale = Team.objects.exclude(watched_at__gt=due).filter(pk__in=[team.pk for team in unnoted])
    if not unnoted or not stale.update(watched_at=now):
        return []
    new = [team for team in unnoted if not has_attention(team)]
    keys = Credential.objects.usable().filter(team__in=new, next_refresh_at__gt=now)
    ids = list(keys.values_list("pk", flat=True)) if new else []
    if ids:
        keys.update(next_refresh_at=now)
    return ids


def team_has_attention(credential: Credential) -> bool:
    """As it is now: a round may last longer than attention does."""
    since = timezone.now() - ATTENTION_LASTS
    return Team.objects.filter(pk=credential.team_id, watched_at__gte=since).exists()


def due(now: datetime) -> list[uuid.UUID]:
    """The keys to read with now."""
    free = Credential.objects.usable().filter(_is_free(now))
    return list(free.order_by("next_refresh_at").values_list("pk", flat=True))


def claim(credential_id: uuid.UUID, *, force: bool = False) -> Credential | None:
    """Take the key for one round, or None: not due, claimed by another round, failing, or revoked.

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

    What it spends is noted too, some calls ahead, so that the rate limit holds for the worker that takes over.
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
    """End the round: the next one comes at the pace of attention, or at once if there is more to read (`goes_on`)."""
    # The pace counts from beginning to beginning, or a round and a tick would be added to each wait.
    was_due = credential.next_refresh_at
    begun = was_due if abs(began - was_due) <= SLACK else began
    following = begun + (ATTENTION_PACE if goes_on else _pace(credential))
    Credential.objects.filter(pk=credential.pk, claimed_until=credential.claimed_until).update(
        claimed_until=None, next_refresh_at=following
    )
    Credential.objects.filter(pk=credential.pk).update(**changes)


def _is_free(now: datetime) -> Q:
    unclaimed = Q(claimed_until=None) | Q(claimed_until__lte=now)
    not_waiting = Q(backoff_until=None) | Q(backoff_until__lte=now)
    return unclaimed & not_waiting & Q(next_refresh_at__lte=now + SLACK)


def _pace(credential: Credential) -> timedelta:
    if team_has_attention(credential):
        return ATTENTION_PACE
    active = Run.objects.filter(team=credential.team_id, rank=1, task__credential=credential)
    # An emergency stop cancels what is read: new runs must not stay unseen for minutes.
    is_held = EmergencyStop.objects.holding().filter(team=credential.team_id)
    return ACTIVE_PACE if active.exists() or is_held.exists() else IDLE_PACE
