"""Sign-ins and refused attempts. Anonymous attempts are counted, not listed, so that nobody can flood the log."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AnonymousTally, Credential, Run, Task, Team, User

from . import tallies

log = structlog.get_logger(__name__)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request: the page's name, its path without secrets, and the ids in the path."""

    page: str
    path: str
    method: str
    run_id: UUID | None = None
    task_id: UUID | None = None
    credential_id: UUID | None = None

    def target(self, team: Team | None) -> dict[str, Any]:
        """The run, task or credential named in the path if it belongs to the team, else the page."""
        named: dict[str, tuple[QuerySet[Any], UUID | None]] = {
            "run": (Run.objects.select_related("task"), self.run_id),
            "task": (Task.objects.all(), self.task_id),
            "credential": (Credential.objects.all(), self.credential_id),
        }
        for name, (rows, pk) in named.items():
            found = rows.filter(team=team, pk=pk).first() if team is not None and pk is not None else None
            if found is not None:
                return {name: found}
        return {"target": Target("page", self.page, self.path)}

    @property
    def details(self) -> dict[str, str]:
        return {"page": self.page, "path": self.path, "method": self.method}


def record_denial(
    event: EventType, attempt: Attempt, *, by: Actor, team: Team | None, why: str = "", target: Target | None = None
) -> None:
    """Record a refused attempt. It stays refused if the database fails, so the failure is only logged."""
    details = attempt.details | ({"why": why} if why else {})
    try:
        if by.type == "anonymous":
            page = Target("page", attempt.page, attempt.path)
            record_anonymous(event, "denied", by=by, target=target or page, details=details)
            return
        with transaction.atomic():
            if not tallies.has_room(by, team):
                return
            aimed_at = {"target": target} if target else attempt.target(team)
            record(event, "denied", by=by, team=team, details=details, **aimed_at)
    except DatabaseError:
        log.exception("denial_not_recorded", view=attempt.page)


def record_sign_in(person: User, *, again: bool = False, by: Actor) -> None:
    """`again`: the person was already signed in and confirmed their identity."""
    _record_person(EventType.AUTH_SIGN_IN, person, by=by, details={"again": True} if again else {})


def record_sign_out(person: User, *, by: Actor) -> None:
    _record_person(EventType.AUTH_SIGN_OUT, person, by=by)


def record_failed_sign_in(login: str, outcome: str, *, why: str = "", by: Actor) -> None:
    """`outcome` is failed or throttled. The typed login is stored only if an account has it.

    `why` is our own word for what was wrong, if it was not the password. A signed-in person who fails to confirm their
    identity gets a row for every attempt, up to the limit of `tallies`: someone else may be using their session.
    """
    person = User.objects.filter(email__iexact=login.strip()).first() if login else None
    target = Target("person", str(person.pk), person.email) if person else None
    details = ({"why": why} if why else {}) | ({"again": True} if by.type == "user" else {})
    if by.type == "anonymous":
        record_anonymous(EventType.AUTH_SIGN_IN, outcome, by=by, target=target, details=details)
        return
    with transaction.atomic():
        if tallies.has_room(by, None):
            record(EventType.AUTH_SIGN_IN, outcome, by=by, target=target, details=details)


def _record_person(event: EventType, person: User, *, by: Actor, details: dict[str, Any] | None = None) -> None:
    with transaction.atomic():
        record(event, "done", by=by, target=Target("person", str(person.pk), person.email), details=details)


def record_anonymous(
    event: EventType, outcome: str, *, by: Actor, target: Target | None = None, details: dict[str, Any] | None = None
) -> None:
    """Write one row per event, address and minute. Count the rest for `record_suppressed()`."""
    minute = timezone.now().replace(second=0, microsecond=0)
    tally = {"event": event.value, "outcome": outcome, "ip": by.ip[:45], "minute": minute}
    with transaction.atomic():
        try:
            with transaction.atomic():
                AnonymousTally.objects.create(**tally)
        except IntegrityError:
            AnonymousTally.objects.filter(**tally).update(left_out=F("left_out") + 1)
            return
        record(event, outcome, by=by, target=target, details=details)


def record_suppressed() -> int:
    """Record how many attempts of past minutes got no row of their own. Returns how many rows were written."""
    past = AnonymousTally.objects.filter(minute__lt=timezone.now() - MINUTE)
    return sum(_record_tally(tally) for tally in past)


@transaction.atomic
def _record_tally(tally: AnonymousTally) -> int:
    # Delete first: if two workers get here at once, only one finds the row.
    deleted, _ = AnonymousTally.objects.filter(pk=tally.pk).delete()
    if not deleted or not tally.left_out:
        return 0
    details = {"left_out": tally.left_out, "minute": tally.minute.strftime("%Y-%m-%dT%H:%MZ")}
    by = Actor(type="anonymous", ip=tally.ip)
    record(EventType(tally.event), tally.outcome, by=by, details=details)
    return 1
