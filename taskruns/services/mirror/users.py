"""Asking for the names of those who triggered runs: a few at the end of a round, because rounds can do without."""

from datetime import timedelta

from django.utils import timezone

from taskruns.arize.errors import ArizeError, BadRequest, NotFound
from taskruns.models import Credential, Team
from taskruns.services.runs import arize_users

from .reader import Reader

MOST_A_ROUND = 5
# Most keys may not read people, and Arize answers as if there were none: such a key is left alone for a while.
REFUSED_WAITS = timedelta(hours=1)
_NOT_TOLD = (BadRequest, NotFound)


def read_names(reader: Reader) -> None:
    """Ask for names that are not known, or not asked for since a day."""
    credential, now = reader.credential, timezone.now()
    if credential.users_refused_at is not None and credential.users_refused_at > now - REFUSED_WAITS:
        return
    answered, changed = [], False
    for user in list(arize_users.waiting(credential.team_id, credential.endpoint, now=now)[:MOST_A_ROUND]):
        if reader.is_over or not reader.spend():
            break
        answer = reader.aside(lambda who=user: reader.client.get_user(who.arize_id))  # type: ignore[misc]
        answered.append(answer)
        if isinstance(answer, ArizeError) and not isinstance(answer, _NOT_TOLD):
            break
        changed |= arize_users.record_user(user, None if isinstance(answer, ArizeError) else answer)
    if answered and all(isinstance(answer, ArizeError) for answer in answered):
        Credential.objects.filter(pk=credential.pk).update(users_refused_at=now)
    if changed:
        Team.bump(credential.team_id)
