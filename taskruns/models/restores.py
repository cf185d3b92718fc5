"""Restores from a backup, and moves to another database."""

from datetime import datetime
from functools import cache

from django.db import models
from django.utils import timezone

from .prepared import Prepared


class Restore(models.Model):
    """A restore of this database. Until a person adopts it, the panel rests: see `is_resting`."""

    restored_at = models.DateTimeField(default=timezone.now)
    restored_by = models.CharField(max_length=254)
    backup = models.CharField(max_length=64)  # SHA-256 of the file
    backup_made_at = models.DateTimeField()
    adopted_at = models.DateTimeField(null=True)
    adopted_by = models.CharField(max_length=254, blank=True)

    def __str__(self) -> str:
        return f"restored at {self.restored_at} from {self.backup[:12]}"


class Move(models.Model):
    """A move into this database, made by `move_to`. Without `finished_at` it was interrupted, and may be repeated."""

    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)
    source = models.CharField(max_length=20)  # the kind of database

    def __str__(self) -> str:
        return f"from {self.source} at {self.started_at}"


def is_resting() -> bool:
    """Whether this panel was restored and not adopted yet.

    People look and cancel, but it publishes no anchors, and runs no bulk cancels, holds or deliveries: it may be a
    drill beside the real panel, and would otherwise send again what was interrupted when the backup was made.
    """
    return restored_at() is not None


def restored_at() -> datetime | None:
    """When, if it rests."""
    return next(iter(_latest().rows(most=1)), None)


def last_adopted_at() -> datetime | None:
    """When a restored panel was last adopted here. Until then, the panel whose backup it is may have worked."""
    adopted: datetime | None = Restore.objects.aggregate(last=models.Max("adopted_at"))["last"]
    return adopted


@cache
def _latest() -> Prepared[datetime]:
    """Each page needs it."""
    resting = Restore.objects.filter(adopted_at=None).order_by("-pk")
    return Prepared(resting.values_list("restored_at", flat=True))
