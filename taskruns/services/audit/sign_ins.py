"""Who came in, who went, and who was not let in. Everything here is the site's, not a team's."""

from typing import Any

from django.db import transaction

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import User

from .denials import record_anonymous


def record_sign_in(person: User, *, again: bool = False, by: Actor) -> None:
    """`again`: who is signed in already has shown once more that it is them."""
    _record(EventType.AUTH_SIGN_IN, person, by=by, details={"again": True} if again else {})


def record_sign_out(person: User, *, by: Actor) -> None:
    _record(EventType.AUTH_SIGN_OUT, person, by=by)


def record_failed_sign_in(login: str, outcome: str, *, why: str = "", by: Actor) -> None:
    """`outcome` is failed or throttled. What was typed is kept only where it is somebody's name here.

    `why` is our own word for what else than a password was wrong. Who is signed in and fails to show once more that it
    is them is named, each time: their session may be in somebody else's hands.
    """
    person = User.objects.filter(email__iexact=login.strip()).first() if login else None
    target = Target("person", str(person.pk), person.email) if person else None
    details = ({"why": why} if why else {}) | ({"again": True} if by.type == "user" else {})
    if by.type == "anonymous":
        record_anonymous(EventType.AUTH_SIGN_IN, outcome, by=by, target=target, details=details)
        return
    with transaction.atomic():
        record(EventType.AUTH_SIGN_IN, outcome, by=by, target=target, details=details)


def _record(event: EventType, person: User, *, by: Actor, details: dict[str, Any] | None = None) -> None:
    with transaction.atomic():
        record(event, "done", by=by, target=Target("person", str(person.pk), person.email), details=details)
