"""Records attempts with a token that does not work: one row a minute, the others are counted."""

from dataclasses import replace

import structlog
from django.db import DatabaseError, transaction

from taskruns.audit import Actor, EventType, Target, record
from taskruns.services.audit import Attempt, record_denial, tallies

from .access import TokenRefused, actor_of

log = structlog.get_logger(__name__)


def record_refusal(refused: TokenRefused, attempt: Attempt, *, by: Actor) -> None:
    """Record it in the token's team, or like other anonymous attempts if nobody knows the token. It stays refused if
    the database fails.

    `by`: the anonymous sender. The text that they sent is never stored.
    """
    token = refused.token
    if token is None:
        record_denial(EventType.TOKEN_REFUSED, attempt, by=by, team=None, why=refused.why.value)
        return
    sender = actor_of(token, ip=by.ip, user_agent=by.user_agent, request_id=by.request_id)
    # A script that nobody looks after goes on for months, and nobody can delete its rows.
    counted_as = replace(sender, id=f"{tallies.REFUSED}{token.pk}")
    target = Target("token", str(token.pk), token.name)
    try:
        with transaction.atomic():
            if tallies.has_room(counted_as, token.team):
                details = attempt.details | {"why": refused.why.value}
                record(EventType.TOKEN_REFUSED, "denied", by=sender, team=token.team, target=target, details=details)
    except DatabaseError:
        log.exception("refusal_not_recorded", token=str(token.pk))
