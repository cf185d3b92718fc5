"""Starts of runs that were requested in the panel."""

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .outcomes import TRIGGER_FACTS, TriggerOutcome
from .people import User
from .runs import Run
from .tasks import Task
from .tokens import Token

_OUTCOMES = [(outcome.value, outcome.label) for outcome, facts in TRIGGER_FACTS.items() if facts.has_row]


class Trigger(models.Model):
    """One start, of a submitted form or of a batch. Its id is the operation id of its audit rows.

    For a form it is the form's own token, so that the same form cannot start two runs.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    task = models.ForeignKey(Task, models.CASCADE, related_name="triggers")
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    person_label = models.CharField(max_length=254)
    token = models.ForeignKey(Token, models.SET_NULL, null=True, related_name="+")  # instead of a person
    parameters = models.JSONField()  # the request body
    requested_at = models.DateTimeField(default=timezone.now)
    # When it was about to be sent, committed before the POST. Null: a batch has not sent it yet. Whoever sends it sets
    # this first, by a conditional UPDATE, so it is sent at most once. A row that does not say counts as sent.
    posted_at = models.DateTimeField(null=True, default=timezone.now, db_default=Now())
    outcome = models.CharField(max_length=20, choices=_OUTCOMES, blank=True, default=TriggerOutcome.OPEN)
    closed_at = models.DateTimeField(null=True)
    explanation = models.TextField(blank=True)  # for the page only, never for the log
    is_throttled = models.BooleanField(default=False)
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="triggers")

    class Meta:
        indexes = [
            models.Index(fields=["requested_at"], condition=models.Q(outcome=""), name="trigger_to_close"),
        ]

    def __str__(self) -> str:
        return f"{self.outcome or 'open'} trigger of {self.task_id}"
