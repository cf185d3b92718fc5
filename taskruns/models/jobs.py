"""The workers' heartbeats."""

from typing import Any

from django.db import connection, models

WORKER, QUEUE = "worker", "queue"


def has_clock() -> bool:
    """SQLite has no clock of its own: it is on the same machine."""
    return connection.vendor == "postgresql"


class Heartbeat(models.Model):
    """When a worker, and the queue as it sees it, were last seen. Written by the clock every few seconds."""

    name = models.CharField(primary_key=True, max_length=30)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.seen_at}"

    @classmethod
    def annotations(cls, now: models.Expression) -> dict[str, Any]:
        """For a query that needs them without a further one: `worker_seen_at`, `queue_seen_at` and `database_now`.

        `now`: the time by the database's clock, or of this process if it has none.
        """
        rows = {name: cls.objects.filter(pk=name).values("seen_at")[:1] for name in (WORKER, QUEUE)}
        seen = {f"{name}_seen_at": models.Subquery(row) for name, row in rows.items()}
        return seen | {"database_now": now}
