"""Saved views: board filters with a name."""

import uuid

from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from .people import User
from .teams import Team


class SavedView(models.Model):
    """Private to its owner or shared with the team. A member's own default is stored in their Membership."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="saved_views")
    owner = models.ForeignKey(User, models.CASCADE, related_name="+")
    name = models.CharField(max_length=100)
    # The board's canonical query string, without `?` and cursor. Empty: all runs.
    query = models.TextField(blank=True)
    is_shared = models.BooleanField(default=False)
    is_team_default = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint("team", "owner", Lower("name"), name="one_own_view_a_name"),
            models.UniqueConstraint(
                "team", Lower("name"), condition=models.Q(is_shared=True), name="one_shared_view_a_name"
            ),
            models.UniqueConstraint(
                fields=["team"], condition=models.Q(is_team_default=True), name="one_default_view_a_team"
            ),
            models.CheckConstraint(
                condition=models.Q(is_team_default=False) | models.Q(is_shared=True), name="a_teams_default_is_shared"
            ),
        ]

    def __str__(self) -> str:
        return self.name
