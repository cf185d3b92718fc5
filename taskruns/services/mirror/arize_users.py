"""Reads the names of people who triggered runs: a few at the end of each round, because they are not essential."""

from datetime import timedelta
from functools import cache

from django.db.models import CharField, F, UUIDField
from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, NotFound
from taskruns.arize.wire import WireUser
from taskruns.models import ArizeUser, Credential, Team
from taskruns.models.prepared import Prepared, Slot, TimeSlot
from taskruns.models.stamps import is_recent, long_ago

from .reader import Reader

MOST_A_ROUND = 5
# Read a name again after this time: people change names, gain rights and leave.
ASKED_EVERY = timedelta(days=1)
# A key waits this long after a round in which no name was readable: most keys may not read users (Arize then answers as
# if the user did not exist), and after other errors names can wait.
REFUSED_WAITS = timedelta(hours=1)
_OF_ONE_USER = (BadRequest, NotFound)


def read_names(reader: Reader) -> None:
    """Read names that are unknown or were last read more than a day ago."""
    credential, now = reader.credential, timezone.now()
    if is_recent(credential.users_refused_at, now, REFUSED_WAITS):
        return
    answers, changed = [], False
    for user in _waiting().rows(team=credential.team_id, endpoint=credential.endpoint, now=now):
        if reader.is_over or not reader.spend():
            break
        answer = reader.call_optional(lambda who=user: reader.client.get_user(who.arize_id))  # type: ignore[misc]
        answers.append(answer)
        if isinstance(answer, ArizeError) and not isinstance(answer, _OF_ONE_USER):
            break
        changed |= record_user(user, None if isinstance(answer, ArizeError) else answer)
    if answers and all(isinstance(answer, ArizeError) for answer in answers):
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


@cache
def _waiting() -> Prepared[ArizeUser]:
    """A few users of the key's team whose names are due; those never read come first."""
    mine = ArizeUser.objects.filter(team=Slot("team", UUIDField()), endpoint=Slot("endpoint", CharField()))
    due = mine.filter(long_ago("read_at", TimeSlot(), ASKED_EVERY))
    return Prepared(due.order_by(F("read_at").asc(nulls_first=True), "pk")[:MOST_A_ROUND])
