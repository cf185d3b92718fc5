"""Opening the log is an act, recorded once per person, chain and hour."""

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.record import SITE_CHAIN
from taskruns.models import AuditReading, Team

READING_COUNTS_FOR = timedelta(hours=1)


def record_reading(team: Team | None, *, by: Actor) -> None:
    """Opening the log is an act: recorded once per person, chain and hour.

    The page of all teams (None) is a reading of the site's log: who may see it may read every chain, so one row there
    tells it, and no team's log is filled with the readings of those who look after all.
    """
    mine = {"actor_id": by.id, "chain": _chain(team)}
    now = timezone.now()
    known = AuditReading.objects.filter(**mine)
    if known.filter(recorded_at__gt=now - READING_COUNTS_FOR).exists():
        return
    with transaction.atomic():
        # Of two pages opened at once one makes or moves the mark, and records.
        if known.filter(recorded_at__lte=now - READING_COUNTS_FOR).update(recorded_at=now) or _first(mine, now):
            record(EventType.AUDIT_READ, "done", by=by, team=team)


def _first(mine: dict[str, str], now: datetime) -> bool:
    try:
        with transaction.atomic():
            AuditReading.objects.create(**mine, recorded_at=now)
    except IntegrityError:
        return False
    return True


def _chain(team: Team | None) -> str:
    return f"team:{team.pk}" if team else SITE_CHAIN
