"""When to read with each credential: one round per credential at a time, across all workers.

The pace is faster while a board of the team is open (attention). A worker claims a credential by a conditional UPDATE;
the row count shows whether it won. The claim of a dead worker expires after LEASE.
"""

import threading
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, UUIDField
from django.utils import timezone

from taskruns.models import Credential, EmergencyStop, Run, Team
from taskruns.models.credentials import LONGEST_BACKOFF
from taskruns.models.prepared import Prepared, PreparedUpdate, Slot, TimeSlot, update_row
from taskruns.models.stamps import is_recent, long_ago, over
from taskruns.services.credentials import pauses
from taskruns.services.credentials.budget import Budget, Calls
from taskruns.services.credentials.health import TRIED_AGAIN
from taskruns.services.minor_writes import try_write

# Longer than one call with its retries (28 s). A round renews its claim with each answer.
LEASE = timedelta(seconds=40)
RENEWED_EVERY = timedelta(seconds=5)
# From the start of one round to the start of the next
ATTENTION_PACE = timedelta(seconds=5)
ACTIVE_PACE = timedelta(seconds=30)
IDLE_PACE = timedelta(minutes=5)
# A credential that is due within SLACK is taken now, because the clock looks only once a second and a thread may not be
# free at once. A round that starts within SLACK of its due time counts as started on time: the pace stays the same.
SLACK = timedelta(seconds=1.5)
ATTENTION_LASTS = timedelta(seconds=15)
ATTENTION_WRITTEN_EVERY = timedelta(seconds=5)
# The claims of this process's rounds, so that it can give them back when it stops.
_held: dict[uuid.UUID, datetime] = {}
_held_lock = threading.Lock()


def has_attention(team: Team) -> bool:
    """Whether a board of the team is open, according to the loaded row."""
    return is_recent(team.watched_at, timezone.now(), ATTENTION_LASTS)


def note_attention(teams: Iterable[Team]) -> list[uuid.UUID]:
    """Note that a board of these teams is open, with at most one write per 5 s. Returns the credentials to wake.

    If no board of a team was open before, its credentials become due at once, or soon if they pause after a failure.
    Attention is only a hint: the board must not wait for the database's write lock, so it is left out if the lock is
    taken. The next poll tries again.
    """
    now = timezone.now()
    unnoted = [team for team in teams if not is_recent(team.watched_at, now, ATTENTION_WRITTEN_EVERY)]
    return (try_write(lambda: _note(unnoted, now), what="attention") if unnoted else None) or []


def _note(unnoted: list[Team], now: datetime) -> list[uuid.UUID]:
    stale = Team.objects.filter(long_ago("watched_at", now, ATTENTION_WRITTEN_EVERY), pk__in=[it.pk for it in unnoted])
    if not stale.update(watched_at=now):
        return []
    new = [team for team in unnoted if not has_attention(team)]
    keys = Credential.objects.usable().filter(team__in=new, next_refresh_at__gt=now)
    ids = list(keys.values_list("pk", flat=True)) if new else []
    if ids:
        keys.update(next_refresh_at=now)
    if new:
        pauses.shorten([team.pk for team in new], pauses.BOARD_PAUSE)
    return ids


def team_has_attention(credential: Credential) -> bool:
    """Whether a board of the team is open or an emergency stop is active, which cancels only runs that were read.

    Read from the database again: a round may last longer than attention does.
    """
    return _is_watched(credential) or _is_stopped(credential)


def longest_pause(credential: Credential) -> timedelta | None:
    """The longest pause after a failure while someone waits for the readings. None if nobody does."""
    if _is_stopped(credential):
        return pauses.STOP_PAUSE
    return pauses.BOARD_PAUSE if _is_watched(credential) else None


def _is_watched(credential: Credential) -> bool:
    (watched_at,) = _watched_at().rows(team=credential.team_id)
    return is_recent(watched_at, timezone.now(), ATTENTION_LASTS)


@cache
def _watched_at() -> Prepared[datetime | None]:
    return Prepared(Team.objects.filter(pk=Slot("team", UUIDField())).values_list("watched_at", flat=True))


def _is_stopped(credential: Credential) -> bool:
    return _stops().exists(team=credential.team_id, now=timezone.now())


@cache
def _stops() -> Prepared[EmergencyStop]:
    return Prepared(EmergencyStop.objects.holding(TimeSlot()).filter(team=Slot("team", UUIDField())))


def due(now: datetime) -> list[uuid.UUID]:
    """The credentials to read with now, the longest overdue first."""
    free = Credential.objects.live().filter(_may_be_used(now), _is_free(now))
    return list(free.order_by("next_refresh_at").values_list("pk", flat=True))


def failed_last(credential_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those whose last round failed. They may do so again, slowly, and must not delay the others."""
    rows = Credential.objects.filter(pk__in=list(credential_ids))
    return set(rows.filter(_has_failed()).values_list("pk", flat=True))


def _has_failed() -> Q:
    return Q(failures__gt=0) | Q(failing_since__isnull=False)


def claim(credential_id: uuid.UUID, *, force: bool = False) -> Credential | None:
    """Claim the credential for one round. None if it is not due, claimed by another round, failing or revoked.

    A failing key can be claimed when it is to be tried again (`retry_at`).

    `force` (a person at a shell) ignores pace, claims and failures.
    """
    now = timezone.now()
    if not _claim(force=force).run(credential=credential_id, now=now):
        return None
    _hold(credential_id, now + LEASE)
    return _claimed().rows(credential=credential_id)[0]


@cache
def _claim(*, force: bool) -> PreparedUpdate:
    """Compares only columns of the row itself: after waiting for another UPDATE, PostgreSQL does not recheck joined
    tables, and both workers would win. A subquery for the team is no join.
    """
    now = TimeSlot()
    live = Credential.objects.filter(pk=Slot("credential", UUIDField()), revoked_at=None)
    live = live.filter(Exists(Team.objects.active().filter(pk=OuterRef("team"))))
    free = live if force else live.filter(_may_be_used(now) & _is_free(now))
    return PreparedUpdate(free, claimed_until=now + LEASE)


@cache
def _claimed() -> Prepared[Credential]:
    return Prepared(Credential.objects.select_related("team").filter(pk=Slot("credential", UUIDField())))


def give_back_claims() -> int:
    """End the claims of this process's rounds, which it will not finish. Returns how many."""
    with _held_lock:
        held = list(_held.items())
        _held.clear()
    rows = (Credential.objects.filter(pk=key, claimed_until=until) for key, until in held)
    return sum(row.update(claimed_until=None) for row in rows)


def _hold(credential_id: uuid.UUID, until: datetime | None) -> None:
    with _held_lock:
        if until is None:
            _held.pop(credential_id, None)
        else:
            _held[credential_id] = until


def renew(credential: Credential, *, budget: Budget) -> None:
    """Extend the claim before each call and after each answer, so that only a dead worker loses it.

    Also store the calls spent, and some in advance: a worker that takes over must respect the rate limit.
    """
    now = timezone.now()
    if credential.claimed_until is None:
        return
    if credential.claimed_until - now > LEASE - RENEWED_EVERY and not budget.needs_note():
        return
    with transaction.atomic():
        if _lock(credential, budget) != credential.claimed_until:
            return
        calls: dict[str, Any] = {} if budget.is_apart else {"recent_calls": budget.ahead()}
        update_row(Credential, credential.pk, claimed_until=now + LEASE, **calls)
    credential.claimed_until = now + LEASE
    _hold(credential.pk, now + LEASE)


def note_calls(credential: Credential, budget: Budget, *, ahead: bool) -> None:
    """Store the calls of a round. `ahead`: also some of its next ones."""
    if budget.is_apart:
        return
    with transaction.atomic():
        _lock(credential, budget)
        update_row(Credential, credential.pk, recent_calls=budget.ahead() if ahead else budget.recent())


def _lock(credential: Credential, budget: Budget) -> datetime | None:
    """Lock the key, because lookups and the sweep store their calls in the same column, and each must count the others.

    Returns until when it is claimed.
    """
    row = _claim_and_calls().rows(credential=credential.pk)
    claimed_until, recent_calls = row[0] if row else (None, [])
    budget.learn_outside(recent_calls)
    return claimed_until


@cache
def _claim_and_calls() -> Prepared[tuple[datetime | None, Calls]]:
    row = Credential.objects.filter(pk=Slot("credential", UUIDField())).select_for_update(no_key=True)
    return Prepared(row.values_list("claimed_until", "recent_calls"))


def release(
    credential: Credential, *, began: datetime, budget: Budget | None = None, has_more: bool = False, **changes: Any
) -> None:
    """End the round and schedule the next one. `has_more`: there is more to read, so use the fastest pace.

    `budget`: store its calls too. If another time was asked for during the round, for example by a webhook of Arize,
    that one stays.
    """
    # The pace counts from start to start. Counted from the end, each wait would grow by a round and a tick.
    was_due = credential.next_refresh_at
    start = was_due if abs(began - was_due) <= SLACK else began
    following = start + (ATTENTION_PACE if has_more else _pace(credential))
    plan = {"claimed_until": None, "next_refresh_at": following}
    mine = {"claimed_until": credential.claimed_until}
    with transaction.atomic():
        if budget is not None and not budget.is_apart:
            _lock(credential, budget)
            changes["recent_calls"] = budget.recent()
        is_mine = update_row(Credential, credential.pk, only_if=mine | {"next_refresh_at": was_due}, **plan | changes)
        if not is_mine:
            is_mine = update_row(Credential, credential.pk, only_if=mine, **{"claimed_until": None} | changes)
        if not is_mine and changes:
            update_row(Credential, credential.pk, **changes)
    _hold(credential.pk, None)


def _may_be_used(now: datetime | TimeSlot) -> Q:
    is_tried_again = Q(retry_at__isnull=False) & over("retry_at", now, TRIED_AGAIN[1])
    return Q(failing_since=None) | is_tried_again


def _is_free(now: datetime | TimeSlot) -> Q:
    unclaimed = over("claimed_until", now, LEASE)
    not_waiting = over("backoff_until", now, LONGEST_BACKOFF)
    return unclaimed & not_waiting & over("next_refresh_at", now + SLACK, IDLE_PACE)


def _pace(credential: Credential) -> timedelta:
    if team_has_attention(credential):
        return ATTENTION_PACE
    active = Run.objects.filter(team=credential.team_id, rank=1, task__credential=credential)
    return ACTIVE_PACE if active.exists() else IDLE_PACE
