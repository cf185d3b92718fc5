"""People and their roles on the whole site."""

import uuid
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone


class SiteRole(models.TextChoices):
    NONE = "", "none"
    AUDITOR = "auditor"
    ADMIN = "admin", "site admin"


class Theme(models.TextChoices):
    """The colours of the pages: as on the person's system, or always light or dark."""

    SYSTEM = "", "as my system"
    LIGHT = "light"
    DARK = "dark"


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> "User":
        """Email addresses are compared without case."""
        return self.get(email__iexact=username or "")


class User(AbstractBaseUser):
    """A person, who signs in with their email address. Django's staff and superuser flags are not used."""

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
    # Not stored: Django would write it before the sign-in is in the audit log, which has it anyway.
    last_login = None

    objects: ClassVar[UserManager] = UserManager()

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="one_person_an_email")]

    def __str__(self) -> str:
        return self.email
