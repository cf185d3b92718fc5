"""Records attempts with a token that does not work: one row a minute, the others are counted.

They are recorded after the answer, in a thread of the process that works once a second: how long this takes depends on
what was wrong, and the time of an answer must not reveal that.
"""

import threading
from dataclasses import dataclass, replace

import structlog
from django.db import DatabaseError, transaction

from taskruns.audit import Actor, EventType, Target, record
from taskruns.services.audit import Attempt, record_denial, tallies
from taskruns.services.audit.denials import network
from taskruns.services.background import Background

from .access import TokenRefused, actor_of

log = structlog.get_logger(__name__)
MOST_KINDS = 1_000  # of attempts that wait


@dataclass(slots=True)
class _Waiting:
    refused: TokenRefused
    attempt: Attempt
    by: Actor
    times: int = 0


class Refusals:
    """Attempts that are not recorded yet: of equal ones, the first and how many there are. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[object, _Waiting] = {}
        self.background = Background("refusals", regular=self.write)

    def note(self, refused: TokenRefused, attempt: Attempt, *, by: Actor) -> None:
        """Record it within about a second. At once if too many different ones wait."""
        kind = (refused.why, refused.token and refused.token.pk, network(by.ip))
        with self._lock:
            has_room = kind in self._waiting or len(self._waiting) < MOST_KINDS
            if has_room:
                self._waiting.setdefault(kind, _Waiting(refused, attempt, by)).times += 1
        if has_room:
            self.background.start()
        else:
            record_refusal(refused, attempt, by=by)

    def write(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            record_refusal(one.refused, one.attempt, by=one.by, times=one.times)


refusals = Refusals()


def record_refusal(refused: TokenRefused, attempt: Attempt, *, by: Actor, times: int = 1) -> None:
    """Record it in the token's team, or like other anonymous attempts if nobody knows the token. It stays refused if
    the database fails.

    `by`: the anonymous sender. The text that they sent is never stored. `times`: how often they tried.
    """
    token = refused.token
    if token is None:
        record_denial(EventType.TOKEN_REFUSED, attempt, by=by, team=None, why=refused.why.value, times=times)
        return
    sender = actor_of(token, ip=by.ip, user_agent=by.user_agent, request_id=by.request_id)
    # A forgotten script keeps trying for months, and nobody can delete its rows.
    counted_as = replace(sender, id=f"{tallies.REFUSED}{token.pk}")
    target = Target("token", str(token.pk), token.name)
    try:
        with transaction.atomic():
            if tallies.gets_row(counted_as, token.team, times=times):
                details = attempt.details | {"why": refused.why.value}
                record(EventType.TOKEN_REFUSED, "denied", by=sender, team=token.team, target=target, details=details)
    except DatabaseError:
        log.exception("refusal_not_recorded", token=str(token.pk))
