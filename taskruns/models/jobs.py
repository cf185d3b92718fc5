"""The workers' heartbeat."""

from django.db import models


class Heartbeat(models.Model):
    """When a worker was last alive: one row, written every minute."""

    name = models.CharField(primary_key=True, max_length=30)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.seen_at}"
