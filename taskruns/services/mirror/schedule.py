"""When to read with each credential: one round per credential at a time, across all workers.

The pace is faster while a board of the team is open (attention). A worker claims a credential by a conditional UPDATE;
the row count shows whether it won. The claim of a dead worker expires after LEASE.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.models import Credential, EmergencyStop, Run, Team

from .budget import Budget

# Longer than one call with its retries (28 s). A round renews its claim with each answer.
LEASE = timedelta(seconds=40)
RENEWED_EVERY = timedelta(seconds=5)
# From the start of one round to the start of the next
ATTENTION_PACE = timedelta(seconds=5)
ACTIVE_PACE = timedelta(seconds=30)
IDLE_PACE = timedelta(minutes=5)
# The queue needs up to a second from tick to round. A credential that is due within SLACK is therefore taken now, and a
# round that starts within SLACK of its due time counts as started on time. Without it, a 5 s pace could become 10 s, or
# speed up with the ticks of several workers.
SLACK = timedelta(seconds=1.5)
ATTENTION_LASTS = timedelta(seconds=15)
ATTENTION_WRITTEN_EVERY = timedelta(seconds=5)


def has_attention(team: Team) -> bool:
    """Whether a board of the team is open, according to the loaded row."""
    return team.watched_at is not None and team.watched_at >= timezone.now() - ATTENTION_LASTS


def note_attention(teams: Iterable[Team]) -> list[uuid.UUID]:
    """Note that a board of these teams is open, with at most one write per 5 s. Returns the credentials to wake.

    If no board of a team was open before, its credentials become due at once.
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
    """Read it from the database again: a round may last longer than attention does."""
    since = timezone.now() - ATTENTION_LASTS
    return Team.objects.filter(pk=credential.team_id, watched_at__gte=since).exists()


def due(now: datetime) -> list[uuid.UUID]:
    """The credentials to read with now, the longest overdue first."""
    free = Credential.objects.usable().filter(_is_free(now))
    return list(free.order_by("next_refresh_at").values_list("pk", flat=True))


def claim(credential_id: uuid.UUID, *, force: bool = False) -> Credential | None:
    """Claim the credential for one round. None if it is not due, claimed by another round, failing or revoked.

    `force` (a person at a shell) ignores pace, claims and failures.
    """
    now = timezone.now()
    if not Credential.objects.live().filter(pk=credential_id).exists():
        return None
    # Only columns of this row: after waiting for another UPDATE, PostgreSQL does not recheck joined tables, and both
    # workers would win.
    may_begin = Q(revoked_at=None) if force else Q(revoked_at=None, failing_since=None) & _is_free(now)
    if not Credential.objects.filter(may_begin, pk=credential_id).update(claimed_until=now + LEASE):
        return None
    return Credential.objects.select_related("team").get(pk=credential_id)


def renew(credential: Credential, *, budget: Budget) -> None:
    """Extend the claim before each call and after each answer, so that only a dead worker loses it.

    Also store the calls spent, and some in advance: a worker that takes over must respect the rate limit.
    """
    now = timezone.now()
    if credential.claimed_until is None:
        return
    if credential.claimed_until - now > LEASE - RENEWED_EVERY and not budget.needs_note():
        return
    mine = Credential.objects.filter(pk=credential.pk, claimed_until=credential.claimed_until)
    if mine.update(claimed_until=now + LEASE):
        credential.claimed_until = now + LEASE
        note_calls(credential, budget, ahead=True)


def note_calls(credential: Credential, budget: Budget, *, ahead: bool) -> None:
    """Store the calls of a round. `ahead`: also some of its next ones.

    Lock the key, because lookups store their calls in the same column, and each must count the calls of the other.
    """
    if budget.is_apart:
        return
    row = Credential.objects.filter(pk=credential.pk)
    with transaction.atomic():
        locked = row.select_for_update(no_key=True).values_list("recent_calls", flat=True)
        for recent in locked:
            budget.learn_lookups(recent)
        row.update(recent_calls=budget.ahead() if ahead else budget.recent())


def release(credential: Credential, *, began: datetime, has_more: bool = False, **changes: Any) -> None:
    """End the round and schedule the next one. `has_more`: there is more to read, so use the fastest pace."""
    # The pace counts from start to start. Counted from the end, each wait would grow by a round and a tick.
    was_due = credential.next_refresh_at
    start = was_due if abs(began - was_due) <= SLACK else began
    following = start + (ATTENTION_PACE if has_more else _pace(credential))
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
    # An emergency stop cancels only runs that were read, so new runs must not stay unread for minutes.
    is_held = EmergencyStop.objects.holding().filter(team=credential.team_id)
    return ACTIVE_PACE if active.exists() or is_held.exists() else IDLE_PACE
