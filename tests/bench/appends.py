"""Audit rows per second, one durable transaction each."""

from django.db import transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import Heartbeat
from tests.bench.table import Figure, per_second

COUNT = 500


def measure() -> list[Figure]:
    by = Actor.command()

    def append(number: int) -> None:
        with transaction.atomic(durable=True):
            record(EventType.ACCESS_DENIED, "denied", by=by, target=Target("view", "bench", str(number)))

    def bare(number: int) -> None:
        with transaction.atomic(durable=True):
            Heartbeat.objects.create(name=f"bench-{number}", seen_at=timezone.now())

    appends = per_second(append, COUNT)
    return [
        Figure("audit rows appended, one writer", appends, "/s", per_second(bare, COUNT), "one bare INSERT committed")
    ]
