"""Records tokens that expire, warns before that, and notices makers who may no longer own theirs."""

from datetime import datetime, timedelta
from functools import partial

import structlog
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import Team, Token
from taskruns.services.remote_acts import sum_of_all

from .access import Refusal, lapse_of, lapses_soon, maker_problem, with_lapse
from .actions import record_expired

log = structlog.get_logger(__name__)
THRESHOLDS = (7, 1)  # days left


def expire(*, by: Actor) -> int:
    """Record the end of each token that has expired. Returns how many."""
    over = Token.objects.unended().filter(expires_at__lte=timezone.now())
    return sum_of_all(partial(_expire, token, by) for token in over.select_related("team").order_by("expires_at"))


def warn_of_expiring() -> int:
    """Warn once per threshold about tokens that expire soon. Returns how many warnings were given.

    A token that was replaced is meant to end.
    """
    now = timezone.now()
    soon = Token.objects.live(now).filter(replaced_at=None, expires_at__lte=now + timedelta(days=max(THRESHOLDS)))
    return sum_of_all(partial(_warn, token, threshold_of(token)) for token in soon.select_related("team"))


def threshold_of(token: Token) -> int:
    """The smallest threshold, in days, within which the token ends."""
    left = token.expires_at - timezone.now()
    return min((days for days in THRESHOLDS if left <= timedelta(days=days)), default=max(THRESHOLDS))


def notice_makers() -> int:
    """Note which tokens stop, or stopped, because of their maker, and which work again. Returns how many changed."""
    tokens = with_lapse().filter(revoked_at=None, expired_at=None, expires_at__gt=timezone.now())
    return sum_of_all(partial(_note_maker, it) for it in tokens.filter(made_by_command=False, team__archived_at=None))


@transaction.atomic
def _expire(token: Token, by: Actor) -> bool:
    _lock(token)
    row = Token.objects.unended().filter(pk=token.pk, expires_at__lte=timezone.now())
    if not row.update(expired_at=timezone.now()):
        return False
    Team.bump(token.team_id)
    record_expired(token, by=by)
    return True


def _warn(token: Token, threshold: int) -> bool:
    is_due = Q(expiry_told=None) | Q(expiry_told__gt=threshold)
    with transaction.atomic():
        _lock(token)
        row = Token.objects.unended().filter(is_due, pk=token.pk, replaced_at=None, expires_at=token.expires_at)
        if not row.update(expiry_told=threshold):
            return False
        Team.bump(token.team_id)
    log.warning(
        "token_expiring", token=str(token.pk), name=token.name, team=token.team.slug, expires_at=str(token.expires_at)
    )
    return True


def _note_maker(token: Token) -> bool:
    now, problem = timezone.now(), maker_problem(token)
    is_trouble = problem is not None or lapses_soon(token, now)
    if is_trouble == (token.maker_told_at is not None) and not _told_too_early(token, problem, now):
        return False
    with transaction.atomic():
        _lock(token)
        same = Token.objects.filter(pk=token.pk, maker_told_at=token.maker_told_at)
        if not same.update(maker_told_at=now if is_trouble else None):
            return False
        Team.bump(token.team_id)
    if is_trouble:
        event, why = ("token_stopped", problem.value) if problem else ("token_stops_soon", "maker must sign in")
        log.warning(event, token=str(token.pk), name=token.name, team=str(token.team_id), why=why)
    return True


def _told_too_early(token: Token, problem: Refusal | None, now: datetime) -> bool:
    """Managers were warned that it would stop. Now it has stopped."""
    lapse = lapse_of(token)
    return (
        problem is not None
        and token.maker_told_at is not None
        and lapse is not None
        and (token.maker_told_at < lapse <= now)
    )


def _lock(token: Token) -> None:
    """The team before its tokens, as everywhere."""
    Team.objects.select_for_update(no_key=True).get(pk=token.team_id)
