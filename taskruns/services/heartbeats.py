"""When the worker, and the queue as the worker sees it, were last seen. By the database's clock, if it has its own."""

from datetime import datetime, timedelta

from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from taskruns.models import Heartbeat, jobs
from taskruns.models.jobs import QUEUE, WORKER
from taskruns.models.stamps import recent

from .minor_writes import try_write

__all__ = ["QUEUE", "WORKER", "database_now", "is_known", "last_seen", "note", "was_seen"]


def database_now() -> datetime:
    """The time on the clock that all processes share."""
    if not jobs.has_clock():
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def note(name: str) -> None:
    """Note that it was seen now. Left out if the database is locked: the clock does it again in a few seconds."""
    try_write(lambda: _write(name), what=f"heartbeat of the {name}")


def _write(name: str) -> None:
    now = Now() if jobs.has_clock() else timezone.now()
    if not Heartbeat.objects.filter(pk=name).update(seen_at=now):
        Heartbeat.objects.bulk_create([Heartbeat(name=name, seen_at=now)], ignore_conflicts=True)


def was_seen(name: str, *, within: timedelta) -> bool:
    """False for a time in the future too: after a clock was set back, a dead worker must not seem alive."""
    return Heartbeat.objects.filter(recent("seen_at", database_now(), within), pk=name).exists()


def last_seen(name: str) -> datetime | None:
    """None if it was never seen."""
    return Heartbeat.objects.filter(pk=name).values_list("seen_at", flat=True).first()


def is_known(name: str) -> bool:
    """Whether it was ever seen."""
    return Heartbeat.objects.filter(pk=name).exists()
