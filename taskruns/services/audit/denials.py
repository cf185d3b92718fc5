"""Refused tries, and the sign-ins of people whom nobody knows yet."""

from datetime import timedelta
from typing import Any

import structlog
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AnonymousTally, Team

log = structlog.get_logger(__name__)
MINUTE = timedelta(minutes=1)


def record_denial(
    event: EventType, *, by: Actor, team: Team | None, view: str, path: str, method: str, why: str = ""
) -> None:
    """A refused try. A denial stays a denial even if it cannot be logged, so a failing database is only reported."""
    details = {"method": method} | ({"why": why} if why else {})
    try:
        if by.type == "anonymous":
            record_anonymous(event, "denied", by=by, target=Target("view", view, path), details=details)
            return
        with transaction.atomic():
            record(event, "denied", by=by, team=team, target=Target("view", view, path), details=details)
    except DatabaseError:
        log.exception("denial_not_recorded", view=view)


def record_anonymous(
    event: EventType, outcome: str, *, by: Actor, target: Target | None = None, details: dict[str, Any] | None = None
) -> None:
    """One row per event, address and minute; the others are counted and told by `record_left_out()`."""
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


def record_left_out() -> int:
    """Write down how many tries of the minutes gone by had no row of their own. The number of rows written."""
    over = AnonymousTally.objects.filter(minute__lt=timezone.now() - MINUTE)
    return sum(_tell(tally) for tally in over)


@transaction.atomic
def _tell(tally: AnonymousTally) -> int:
    # Deleting first: of two workers, one finds the row.
    deleted, _ = AnonymousTally.objects.filter(pk=tally.pk).delete()
    if not deleted or not tally.left_out:
        return 0
    details = {"left_out": tally.left_out, "minute": tally.minute.strftime("%Y-%m-%dT%H:%MZ")}
    by = Actor(type="anonymous", ip=tally.ip)
    record(EventType(tally.event), tally.outcome, by=by, details=details)
    return 1
