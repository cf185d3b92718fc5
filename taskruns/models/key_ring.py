"""Which keys this deployment uses, so that a process notices that it has others."""

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


class SigningKeyUse(models.Model):
    """A signing key of the audit log that was used. The MAC needs SECRET_KEY: a row written by hand does not count."""

    key_id = models.CharField(primary_key=True, max_length=16)
    mac = models.CharField(max_length=64)

    def __str__(self) -> str:
        return self.key_id
