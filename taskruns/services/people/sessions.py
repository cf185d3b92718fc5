"""Sessions of people: who has which, and ending them. A session that is ended is over at the next request."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.db import transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import User


def reference(key: str) -> str:
    """What the log and the pages call a session: never its key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class LiveSession:
    """`seen_at`: when its person last worked in it, to the minute."""

    id: int
    key: str
    began_at: datetime
    seen_at: datetime
    ip: str
    user_agent: str


def live(person: User) -> list[LiveSession]:
    """The sessions that still hold, newest first. Rows of those that are over are tidied away."""
    rows = {row.session_key: row for row in UserSession.objects.purge_and_list(person)}
    seen = {row.pk: row.get_decoded().get("seen_at") for row in Session.objects.filter(pk__in=rows)}
    found = [_live(row, seen.get(key)) for key, row in rows.items()]
    return sorted(found, key=lambda session: session.began_at, reverse=True)


def _live(row: UserSession, seen: float | None) -> LiveSession:
    seen_at = datetime.fromtimestamp(seen, UTC) if seen else row.created_at
    return LiveSession(row.pk, row.session_key, row.created_at, seen_at, row.ip, row.user_agent)


def end_one(person: User, *, key: str, by: Actor) -> bool:
    """False if it was over already."""
    return bool(_end_recorded(person, [key], by=by, why="asked"))


def end_others(person: User, *, keep: str, by: Actor) -> int:
    """All sessions of the person but the one with the key `keep`. How many there were; none leaves no row."""
    return _end_recorded(person, [key for key in _keys_of(person) if key != keep], by=by, why="asked")


def end_all(person: User, *, by: Actor) -> int:
    return _end_recorded(person, _keys_of(person), by=by, why="asked")


def end_over(person: User, *, key: str, why: str, by: Actor) -> None:
    """A session that has reached a limit; `why` is idle or age."""
    _end_recorded(person, [key], by=by, why=why)


def delete(person: User, *, keep: str = "") -> int:
    """As a part of an act that has a row of its own: in its transaction. How many sessions there were."""
    return _delete([key for key in _keys_of(person) if key != keep])


def _end_recorded(person: User, keys: list[str], *, by: Actor, why: str) -> int:
    with transaction.atomic():
        if not (ended := _delete(keys)):
            return 0
        details = {"why": why, "sessions": [reference(key) for key in keys[:20]], "sessions_ended": ended}
        target = Target("person", str(person.pk), person.email)
        record(EventType.AUTH_SESSION_END, "done", by=by, target=target, details=details)
    return ended


def _delete(keys: Iterable[str]) -> int:
    wanted = list(keys)
    UserSession.objects.filter(session_key__in=wanted).delete()
    return Session.objects.filter(pk__in=wanted).delete()[0]


def _keys_of(person: User) -> list[str]:
    """Sessions do not name their person in a column, so each live one is opened: rare, and a few thousand at most."""
    rows = Session.objects.filter(expire_date__gt=timezone.now()).iterator()
    return [row.pk for row in rows if row.get_decoded().get("_auth_user_id") == str(person.pk)]
