"""Emergency stops: pulled by a person for a team, active until lifted or expired."""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.utils import timezone

from .audit import LONGEST_REASON
from .people import User
from .tasks import Task
from .teams import Membership, Team, TeamRole

HOLDS_FOR = timedelta(hours=24)


class StopEnd(models.TextChoices):
    """How a stop ended. Empty: it is active until `expires_at`, unless lifted."""

    HOLDING = "", "holding"
    LIFTED = "lifted", "lifted"
    EXPIRED = "expired", "over"


class StopQuerySet(models.QuerySet["EmergencyStop"]):
    def holding(self, now: "datetime | models.Value | None" = None) -> Self:
        """Active stops. One past `expires_at` is not active, even if the clock has not ended it yet.

        `now`: a slot in a prepared query.
        """
        return self.filter(end=StopEnd.HOLDING, expires_at__gt=timezone.now() if now is None else now)

    def with_owner(self) -> Self:
        """With the owner, and their current role in the team: the hold acts only while its owner has the right."""
        mine = Membership.objects.in_force().filter(team=models.OuterRef("team"), user=models.OuterRef("person"))
        able = mine.filter(user__is_active=True, team__archived_at=None)
        return self.select_related("person").annotate(owner_role=models.Subquery(able.values("role")[:1]))


def _expiry() -> datetime:
    return timezone.now() + HOLDS_FOR


class EmergencyStop(models.Model):
    """Holds all tasks of the team, also those created later, except `left_out`.

    Its id is the operation id of its audit rows.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="stops")
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    person_label = models.CharField(max_length=254)
    person_role = models.CharField(max_length=40)
    reason = models.CharField(max_length=LONGEST_REASON)
    left_out = models.JSONField(default=list)  # ids of tasks
    pulled_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(default=_expiry)
    end = models.CharField(max_length=10, choices=StopEnd.choices, blank=True, default=StopEnd.HOLDING)
    ended_at = models.DateTimeField(null=True)
    ended_by_label = models.CharField(max_length=254, blank=True)

    objects = StopQuerySet.as_manager()
    # Only set by `with_owner`.
    owner_role: TeamRole | None

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team"], condition=models.Q(end=""), name="one_emergency_stop_a_team")
        ]

    def __str__(self) -> str:
        return f"{self.end or 'holding'} emergency stop of {self.team_id} by {self.person_label}"

    @property
    def left_out_ids(self) -> list[uuid.UUID]:
        return [uuid.UUID(text) for text in self.left_out]

    def holds(self, task: Task) -> bool:
        return str(task.pk) not in self.left_out

    @staticmethod
    def ids_of(tasks: Iterable[Task]) -> list[str]:
        return sorted(str(task.pk) for task in tasks)
