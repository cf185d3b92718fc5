"""Users of Arize, with the names that Arize gives them."""

import uuid

from django.db import models

from .teams import Team


class ArizeUser(models.Model):
    """The user who created a run. `known`: a key of this team could read the name; most keys may not read users."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="arize_users")
    endpoint = models.CharField(max_length=300)
    arize_id = models.TextField()
    name = models.TextField(blank=True)
    email = models.TextField(blank=True)
    known = models.BooleanField(default=False)
    read_at = models.DateTimeField(null=True)  # when Arize was last asked; null: never

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "endpoint", "arize_id"], name="one_user_a_team_and_id")]
        indexes = [models.Index(fields=["team", "endpoint", "read_at"], name="arize_user_oldest_read")]

    def __str__(self) -> str:
        return self.name or self.email or self.arize_id
