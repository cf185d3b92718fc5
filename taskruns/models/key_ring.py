"""Which key each ring number stands for."""

from django.db import models
from django.utils import timezone


class RingKeyCheck(models.Model):
    """A known text, encrypted with the ring key of this number at its first use. A process that cannot decrypt it has
    another key under the number.
    """

    number = models.PositiveIntegerField(primary_key=True)
    token = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"ring key {self.number}"
