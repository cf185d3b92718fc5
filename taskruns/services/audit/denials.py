"""Sign-ins and refused attempts. Anonymous attempts are counted, not listed, so that nobody can flood the log."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, DataError, IntegrityError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AnonymousTally, Credential, Run, Task, Team, User

from . import tallies

log = structlog.get_logger(__name__)
MINUTE = timedelta(minutes=1)
ROWS_A_MINUTE = 60  # of anonymous attempts on the whole site; nobody can delete them later
NAMED_A_MINUTE = 20  # networks whose counts get a row of their own
ALL_OTHERS = "*"  # as the address of a tally: networks beyond ROWS_A_MINUTE


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
    event: EventType,
    attempt: Attempt,
    *,
    by: Actor,
    team: Team | None,
    why: str = "",
    target: Target | None = None,
    times: int = 1,
) -> None:
    """Record a refused attempt. It stays refused if the database fails, so the failure is only logged.

    `times`: how often an anonymous sender tried the same.
    """
    details = attempt.details | ({"why": why} if why else {})
    try:
        if by.type == "anonymous":
            page = Target("page", attempt.page, attempt.path)
            record_anonymous(event, "denied", by=by, target=target or page, details=details, times=times)
            return
        with transaction.atomic():
            if not tallies.gets_row(by, team):
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
        if tallies.gets_row(by, None):
            record(EventType.AUTH_SIGN_IN, outcome, by=by, target=target, details=details)


def _record_person(event: EventType, person: User, *, by: Actor, details: dict[str, Any] | None = None) -> None:
    with transaction.atomic():
        record(event, "done", by=by, target=Target("person", str(person.pk), person.email), details=details)


def record_anonymous(
    event: EventType,
    outcome: str,
    *,
    by: Actor,
    target: Target | None = None,
    details: dict[str, Any] | None = None,
    times: int = 1,
) -> None:
    """Write one row per event, network and minute, and at most ROWS_A_MINUTE for the whole site. Count the rest for
    `record_suppressed()`.
    """
    tally = {"event": event.value, "outcome": outcome, "minute": timezone.now().replace(second=0, microsecond=0)}
    with transaction.atomic():
        if _count(tally | {"ip": network(by.ip)}, times):
            return
        # Requests that get here at the same moment may exceed the limit, by one row each.
        if AnonymousTally.objects.filter(minute=tally["minute"]).exclude(ip=ALL_OTHERS).count() >= ROWS_A_MINUTE:
            if not _count(tally | {"ip": ALL_OTHERS}, times):
                _begin(tally | {"ip": ALL_OTHERS}, left_out=times, times=times)
            return
        if _begin(tally | {"ip": network(by.ip)}, left_out=times - 1, times=times):
            record(event, outcome, by=by, target=target, details=details)


def network(ip: str) -> str:
    """The address, or for IPv6 its /64: one machine has that many addresses to choose from."""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((int(address), 64), strict=False))


def _begin(tally: dict[str, Any], *, left_out: int, times: int) -> bool:
    """False, with as many more counted, if another request began the tally at the same moment."""
    try:
        with transaction.atomic():
            AnonymousTally.objects.create(**tally, left_out=left_out)
    except IntegrityError:
        _count(tally, times)
        return False
    return True


def _count(tally: dict[str, Any], times: int) -> int:
    return AnonymousTally.objects.filter(**tally).update(left_out=F("left_out") + times)


def record_suppressed() -> int:
    """Record how many attempts of past minutes got no row of their own. Returns how many rows were written.

    The NAMED_A_MINUTE networks with the most attempts get a row each. The others are counted together.
    """
    past = AnonymousTally.objects.filter(minute__lt=timezone.now() - MINUTE)
    minutes = past.order_by("minute").values_list("minute", flat=True).distinct()
    return sum(map(_record_minute_if_possible, list(minutes)))


def _record_minute_if_possible(minute: datetime) -> int:
    """A tally that someone has written by hand must not hold up those of other minutes."""
    try:
        return _record_minute(minute)
    except (ValueError, DataError):
        log.exception("suppressed_not_recorded", minute=str(minute))
        return 0


@transaction.atomic
def _record_minute(minute: datetime) -> int:
    counts: Counter[tuple[str, str, str]] = Counter()
    named = 0
    for tally in AnonymousTally.objects.filter(minute=minute).order_by("-left_out", "pk"):
        # If two workers get here at once, only the one that deletes the tally records it.
        deleted, _ = AnonymousTally.objects.filter(pk=tally.pk).delete()
        if not deleted or not tally.left_out:
            continue
        is_named = tally.ip != ALL_OTHERS and named < NAMED_A_MINUTE
        named += is_named
        counts[tally.event, tally.outcome, tally.ip if is_named else ""] += tally.left_out
    for (event, outcome, ip), left_out in counts.items():
        details = {"left_out": left_out, "minute": minute.strftime("%Y-%m-%dT%H:%MZ")}
        record(EventType(event), outcome, by=Actor(type="anonymous", ip=ip), details=details)
    return len(counts)
