"""Checks that all processes have the same ring key for each number."""

from django.db import models
from django.utils import timezone


class RingKeyCheck(models.Model):
    """A known text, encrypted at the first use of the ring key with this number.

    A process that cannot decrypt it has a different key for this number.
    """

    number = models.PositiveIntegerField(primary_key=True)
    token = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"ring key {self.number}"
