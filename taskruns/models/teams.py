"""Teams, their members with roles, and invitations."""

import uuid
from datetime import datetime, timedelta
from functools import cache

from django.conf import settings
from django.db import models
from django.utils import timezone

from .people import User
from .prepared import PreparedUpdate, Slot


class TeamRole(models.TextChoices):
    VIEWER = "viewer"
    OPERATOR = "operator"
    MANAGER = "manager"


class TeamQuerySet(models.QuerySet["Team"]):
    def active(self) -> "TeamQuerySet":
        return self.filter(archived_at=None)


class Team(models.Model):
    """Owns API keys, runs and memberships. A team is archived, never deleted; its slug never changes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True, blank=True)
    # Incremented by every change that the team's board can show. Part of the board's ETag.
    board_version = models.BigIntegerField(default=0)
    # When a board of this team was last open. Decides how often the mirror reads.
    watched_at = models.DateTimeField(null=True, blank=True)

    objects = TeamQuerySet.as_manager()
    # Only set by `services.members.seen_by` and `own_seen_by`.
    role: str
    reader_manages: bool
    has_other_teams: bool
    as_of: datetime | None
    waiting_keys: int
    is_stopped: bool
    has_silent_channel: bool
    has_token_trouble: bool
    worker_seen_at: datetime | None
    queue_seen_at: datetime | None
    database_now: datetime

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def bump(team_id: uuid.UUID) -> None:
        """Make open boards reload. Call it before recording in the audit log, because locks are taken in one order."""
        _bump().run(team=team_id)


@cache
def _bump() -> PreparedUpdate:
    team = Team.objects.filter(pk=Slot("team", models.UUIDField()))
    return PreparedUpdate(team, board_version=models.F("board_version") + 1)


class MembershipQuerySet(models.QuerySet["Membership"]):
    def in_force(self, since: "datetime | models.Value | None" = None) -> "MembershipQuerySet":
        """Omit roles from groups unless the person's last single sign-on is recent: the person may have left.

        `since`: `confirmed_since`, or its slot in a prepared query.
        """
        since = confirmed_since() if since is None else since
        return self.filter(models.Q(by_groups=False) | models.Q(user__sso_signed_in_at__gt=since))

    def managing(
        self, person: "User | models.Value", since: "datetime | models.Value | None" = None
    ) -> "MembershipQuerySet":
        return self.in_force(since).filter(user=person, role=TeamRole.MANAGER, team__archived_at=None)


def confirmed_since() -> datetime:
    """Roles from groups count only for people whose last single sign-on was after this."""
    return timezone.now() - timedelta(days=settings.SESSION_MAX_DAYS)


class Membership(models.Model):
    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=TeamRole.choices)
    created_at = models.DateTimeField(default=timezone.now)
    # The role comes from single sign-on groups. They may change or remove it, but never a role that a person gave.
    by_groups = models.BooleanField(default=False)
    # The view with which the team's board opens for this member. Null: the team's default.
    default_view = models.ForeignKey("SavedView", models.SET_NULL, null=True, blank=True, related_name="default_of")

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="one_role_a_person_and_team")]

    def __str__(self) -> str:
        return f"{self.user_id} {self.role} of {self.team_id}"


class Invitation(models.Model):
    """An invitation for someone without an account. Its link, the signed id, works once and is not stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=10, choices=TeamRole.choices)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    # `by_mail`: the link is only in a mail, so opening it verifies the address. `mailed_at`: when the worker mailed it.
    by_mail = models.BooleanField(default=False)
    mailed_at = models.DateTimeField(null=True, blank=True)
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.email} to {self.team_id}"

    @property
    def is_open(self) -> bool:
        return self.accepted_at is None and self.revoked_at is None and self.expires_at > timezone.now()
