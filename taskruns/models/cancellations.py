"""Cancellations that were requested in the panel."""

import uuid

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .audit import LONGEST_REASON
from .outcomes import CANCEL_FACTS, Outcome
from .people import User
from .runs import Run
from .tokens import Token

_OUTCOMES = [(outcome.value, outcome.label) for outcome, facts in CANCEL_FACTS.items() if facts.has_row]


class Cancellation(models.Model):
    """One cancel of a run, written before anything is sent. Its id is the operation id of its audit rows."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="cancellations")
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    person_label = models.CharField(max_length=254)
    token = models.ForeignKey(Token, models.SET_NULL, null=True, related_name="+")  # instead of a person
    batch = models.ForeignKey("CancelBatch", models.SET_NULL, null=True, related_name="cancellations")
    reason = models.CharField(max_length=LONGEST_REASON, blank=True)
    requested_at = models.DateTimeField(default=timezone.now)
    # When it was about to be sent, committed before the POST. Null: nothing was sent yet. Whoever sends it sets this
    # first, by a conditional UPDATE, so it is sent at most once. A row that does not say counts as sent.
    posted_at = models.DateTimeField(null=True, default=timezone.now, db_default=Now())
    # Arize answered 200, but the run is still active: shown as "stopping" until the run ends or 300 s have passed.
    stopping_since = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=20, choices=_OUTCOMES, blank=True, default=Outcome.OPEN)
    closed_at = models.DateTimeField(null=True)
    explanation = models.TextField(blank=True)  # for the page only, never for the log
    # Arize's answer to the POST itself (status, request id, milliseconds), for the audit row of the outcome.
    answer = models.JSONField(default=dict)
    # An unknown outcome is followed until it is found or Arize no longer has the run.
    followed = models.BooleanField(default=True)
    # How often its run was read again for the outcome, and the earliest time of the next look. Null: now.
    looks = models.PositiveSmallIntegerField(default=0)
    look_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run"], condition=models.Q(outcome=""), name="one_open_cancellation_a_run")
        ]
        indexes = [
            models.Index(
                fields=["requested_at"],
                condition=models.Q(followed=True, outcome__in=["", "unknown"]),
                name="cancellation_to_follow",
            ),
            models.Index(fields=["closed_at"], condition=models.Q(outcome="confirmed"), name="cancellation_to_check"),
            models.Index(fields=["requested_at"], condition=models.Q(posted_at=None), name="cancellation_to_send"),
            models.Index(fields=["person_label"], name="cancellation_by_label"),
        ]

    def __str__(self) -> str:
        return f"{self.outcome or 'open'} cancel of {self.run_id}"
