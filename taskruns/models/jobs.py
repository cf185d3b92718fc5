"""Signs of life of the workers."""

from django.db import models


class Heartbeat(models.Model):
    """A worker was alive: one row, written each minute."""

    name = models.CharField(primary_key=True, max_length=30)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.seen_at}"
