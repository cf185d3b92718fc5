"""Notes that people leave on runs."""

import uuid

from django.db import models
from django.utils import timezone

from .audit import LONGEST_REASON
from .people import User
from .runs import Run


class RunNote(models.Model):
    """One line about a run. The audit log keeps a copy, which outlives the run."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="notes")
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    person_label = models.CharField(max_length=254)
    text = models.CharField(max_length=LONGEST_REASON)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["run", "-created_at"], name="note_newest_of_run")]

    def __str__(self) -> str:
        return self.text
