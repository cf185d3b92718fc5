"""Reads the names of people who triggered runs: a few at the end of each round, because they are not essential."""

from datetime import datetime, timedelta

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, NotFound
from taskruns.arize.wire import WireUser
from taskruns.models import ArizeUser, Credential, Team

from .reader import Reader

MOST_A_ROUND = 5
# Read a name again after this time: people change names, gain rights and leave.
ASKED_EVERY = timedelta(days=1)
# Most keys may not read users; Arize then answers as if the user did not exist. Such a key waits before it asks again.
REFUSED_WAITS = timedelta(hours=1)
_OF_ONE_USER = (BadRequest, NotFound)


def read_names(reader: Reader) -> None:
    """Read names that are unknown or were last read more than a day ago."""
    credential, now = reader.credential, timezone.now()
    if credential.users_refused_at is not None and credential.users_refused_at > now - REFUSED_WAITS:
        return
    answered, changed = [], False
    for user in _waiting(credential, now)[:MOST_A_ROUND]:
        if reader.is_over or not reader.spend():
            break
        answer = reader.call_optional(lambda who=user: reader.client.get_user(who.arize_id))  # type: ignore[misc]
        answered.append(answer)
        if isinstance(answer, ArizeError) and not isinstance(answer, _OF_ONE_USER):
            break
        changed |= record_user(user, None if isinstance(answer, ArizeError) else answer)
    if answered and all(isinstance(answer, ArizeError) for answer in answered):
        Credential.objects.filter(pk=credential.pk).update(users_refused_at=now)
    if changed:
        Team.bump(credential.team_id)


def record_user(user: ArizeUser, seen: WireUser | None) -> bool:
    """Store Arize's answer. None means that Arize refused; a known name is kept. True if a name changed."""
    now = timezone.now()
    if seen is None or not (seen.name or seen.email):
        ArizeUser.objects.filter(pk=user.pk).update(read_at=now)
        return False
    named = {"name": seen.name or "", "email": seen.email or "", "known": True}
    changed = any(getattr(user, name) != value for name, value in named.items())
    ArizeUser.objects.filter(pk=user.pk).update(read_at=now, **named)
    return changed


def _waiting(credential: Credential, now: datetime) -> QuerySet[ArizeUser]:
    """Users of the key's team whose names are due; those never read come first."""
    due = Q(read_at=None) | Q(read_at__lte=now - ASKED_EVERY)
    mine = ArizeUser.objects.filter(due, team=credential.team_id, endpoint=credential.endpoint)
    return mine.order_by(F("read_at").asc(nulls_first=True), "pk")
