"""Lists and ends the sessions of a person. An ended session is signed out at its next request.

An index finds the person's sessions, so the cost does not depend on the sessions of others.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import PersonSession, User
from taskruns.models.sessions import digest_of

CHUNK = 500
MOST_AT_ONCE = 20  # chunks
MOST_LIVE = 50  # of one person


def reference(key: str) -> str:
    """The name of a session in the log: never its key."""
    return _reference_of(digest_of(key))


def _reference_of(digest: str) -> str:
    return digest[:16]


@dataclass(frozen=True, slots=True)
class LiveSession:
    """`seen_at`: when the person was last active in it, to the minute."""

    id: int
    digest: str
    began_at: datetime
    seen_at: datetime
    ip: str
    user_agent: str


def live(person: User) -> list[LiveSession]:
    """The sessions that have not expired, newest first."""
    rows = _live(person).order_by("-began_at", "-pk").defer("session_data")
    return [LiveSession(row.pk, row.session_key, row.began_at, row.seen_at, row.ip, row.user_agent) for row in rows]


def live_count(person: User) -> int:
    return _live(person).count()


def _live(person: User) -> "QuerySet[PersonSession]":
    return _of(person).filter(expire_date__gt=timezone.now())


def _of(person: User) -> "QuerySet[PersonSession]":
    return PersonSession.objects.filter(user=person)


def is_session(key: str | None, digest: str) -> bool:
    """Whether this key from a cookie belongs to the row with this digest."""
    return key is not None and digest_of(key) == digest


def end_one(person: User, *, digest: str, by: Actor) -> bool:
    """False if it had already ended."""
    return bool(_end_recorded(person, _of(person).filter(session_key=digest), by=by, why="asked"))


def end_others(person: User, *, keep: str, by: Actor) -> int:
    """End all sessions of the person except the one with the key `keep`. Returns how many; records nothing if 0."""
    return _end_recorded(person, _others(person, keep), by=by, why="asked")


def end_all(person: User, *, by: Actor) -> int:
    return _end_recorded(person, _of(person), by=by, why="asked")


def end_surplus(person: User, *, by: Actor) -> None:
    """Make room for a new session: end the person's least recently used ones beyond the limit."""
    kept = _live(person).order_by("-seen_at", "-pk").values_list("pk", flat=True)
    surplus = list(kept[MOST_LIVE - 1 :])
    if surplus:
        _end_recorded(person, _of(person).filter(pk__in=surplus), by=by, why="too many")


def end_expired(person: User, *, digest: str, why: str, by: Actor) -> None:
    """End a session that has reached a limit: `why` is idle or age."""
    _end_recorded(person, _of(person).filter(session_key=digest), by=by, why=why)


def delete(person: User, *, keep: str = "") -> int:
    """Delete sessions without an audit row. For the transaction of an action that records its own. Returns how many."""
    return _others(person, keep).delete()[0]


def forget_expired() -> bool:
    """Delete expired sessions in small chunks, so that other writers get their turn. True if some may be left."""
    return all(_forget_chunk() == CHUNK for _ in range(MOST_AT_ONCE))


def _forget_chunk() -> int:
    over = PersonSession.objects.filter(expire_date__lte=timezone.now()).order_by("expire_date")
    return PersonSession.objects.filter(pk__in=list(over.values_list("pk", flat=True)[:CHUNK])).delete()[0]


def _others(person: User, keep: str) -> "QuerySet[PersonSession]":
    return _of(person).exclude(session_key=digest_of(keep))


def _end_recorded(person: User, rows: "QuerySet[PersonSession]", *, by: Actor, why: str) -> int:
    with transaction.atomic():
        named = [_reference_of(digest) for digest in rows.values_list("session_key", flat=True)[:20]]
        if not (ended := rows.delete()[0]):
            return 0
        details = {"why": why, "sessions": named, "sessions_ended": ended}
        target = Target("person", str(person.pk), person.email)
        record(EventType.AUTH_SESSION_END, "done", by=by, target=target, details=details)
    return ended
