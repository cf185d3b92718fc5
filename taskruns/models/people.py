"""People, their teams, and the roles that tie them together."""

import uuid
from datetime import datetime
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone


class TeamRole(models.TextChoices):
    VIEWER = "viewer"
    OPERATOR = "operator"
    MANAGER = "manager"


class SiteRole(models.TextChoices):
    NONE = "", "none"
    AUDITOR = "auditor"
    ADMIN = "admin", "site admin"


class Theme(models.TextChoices):
    """How pages look: as the person's system does, or always the same."""

    SYSTEM = "", "as my system"
    LIGHT = "light"
    DARK = "dark"


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> "User":
        """E-mail addresses are one person in any case of letters."""
        return self.get(email__iexact=username or "")


class User(AbstractBaseUser):
    """A person. The e-mail is the name; Django's staff and superuser flags do not exist here."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=100, blank=True)
    site_role = models.CharField(max_length=10, choices=SiteRole.choices, blank=True, default=SiteRole.NONE)
    is_active = models.BooleanField(default=True)
    time_zone = models.CharField(max_length=60, default="UTC")
    theme = models.CharField(max_length=5, choices=Theme.choices, blank=True, default=Theme.SYSTEM)
    shortcuts = models.BooleanField(default=True)
    last_team = models.ForeignKey("Team", models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    # Not kept: it would be written before the sign-in is in the audit log, which is where it can be read.
    last_login = None

    objects: ClassVar[UserManager] = UserManager()

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="one_person_an_email")]

    def __str__(self) -> str:
        return self.email


class TeamQuerySet(models.QuerySet["Team"]):
    def active(self) -> "TeamQuerySet":
        return self.filter(archived_at=None)


class Team(models.Model):
    """The unit that keys, runs and rights belong to. Archived, never deleted; the slug never changes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True, blank=True)
    # Raised by every change that the team's board can show; its ETag is made of it.
    board_version = models.BigIntegerField(default=0)
    # When a board of this team was last open somewhere: it decides the pace of reading.
    watched_at = models.DateTimeField(null=True, blank=True)

    objects = TeamQuerySet.as_manager()
    # Read by `services.teams.seen_by` only.
    role: str
    reader_manages: bool
    has_other_teams: bool
    as_of: datetime | None
    is_stopped: bool

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def bump(team_id: uuid.UUID) -> None:
        """Tell open boards that something they show has changed. Call it before the audit row: locks in one order."""
        Team.objects.filter(pk=team_id).update(board_version=models.F("board_version") + 1)


class MembershipQuerySet(models.QuerySet["Membership"]):
    def managing(self, person: User) -> "MembershipQuerySet":
        return self.filter(user=person, role=TeamRole.MANAGER, team__archived_at=None)


class Membership(models.Model):
    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=TeamRole.choices)
    created_at = models.DateTimeField(default=timezone.now)
    # Given by the groups of single sign-on, and taken by them again; what people gave themselves is people's to take.
    by_groups = models.BooleanField(default=False)
    # The view that the team's board opens with for this member; without one it is the team's own.
    default_view = models.ForeignKey("SavedView", models.SET_NULL, null=True, blank=True, related_name="default_of")

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="one_role_a_person_and_team")]

    def __str__(self) -> str:
        return f"{self.user_id} {self.role} of {self.team_id}"


class Invitation(models.Model):
    """A stranger's way in: its link is the signed id, good once. Neither link nor token is stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=10, choices=TeamRole.choices)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.email} to {self.team_id}"

    @property
    def is_open(self) -> bool:
        return self.accepted_at is None and self.revoked_at is None and self.expires_at > timezone.now()
