"""People and their roles on the whole site."""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.hashers import check_password, make_password
from django.db import IntegrityError, models, transaction
from django.db.models.functions import Lower
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from .stamps import ahead, over

LONGEST_NAME = 100


class SiteRole(models.TextChoices):
    NONE = "", "none"
    AUDITOR = "auditor"
    ADMIN = "admin", "site admin"


class Theme(models.TextChoices):
    """The colours of the pages: as on the person's system, or always light or dark."""

    SYSTEM = "", "as my system"
    LIGHT = "light"
    DARK = "dark"


class EmailStatus(models.TextChoices):
    """Whether the address is known to belong to the person, and if not, how the account got it."""

    VERIFIED = "", "verified, or set on the host"
    INVITED = "invited", "an invitation that was not mailed"
    CHANGED = "changed", "changed by a site admin"


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> "User":
        """Email addresses are compared without case."""
        return self.get(email__iexact=username or "")


class User(AbstractBaseUser):
    """A person, who signs in with their email address. Django's staff and superuser flags are not used."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=LONGEST_NAME, blank=True)
    site_role = models.CharField(max_length=10, choices=SiteRole.choices, blank=True, default=SiteRole.NONE)
    is_active = models.BooleanField(default=True)
    time_zone = models.CharField(max_length=60, default="UTC")
    theme = models.CharField(max_length=5, choices=Theme.choices, blank=True, default=Theme.SYSTEM)
    shortcuts = models.BooleanField(default=True)
    # `email_vouched_by`: who entered an address that is not verified.
    email_status = models.CharField(
        max_length=10, choices=EmailStatus.choices, blank=True, default=EmailStatus.VERIFIED
    )
    email_vouched_by = models.CharField(max_length=254, blank=True)
    # The last single sign-on of this person. Roles from groups count for SESSION_MAX_DAYS after it.
    sso_signed_in_at = models.DateTimeField(null=True, blank=True)
    # With SSO_ONLY, the end of the hour in which a site admin's password works after `reset_sign_in`.
    password_works_until = models.DateTimeField(null=True, blank=True)
    # When many sign-ins to this account were last refused, and whether its person has yet to see the notice.
    guessed_at = models.DateTimeField(null=True, blank=True)
    guesses_unseen = models.BooleanField(default=False)
    last_team = models.ForeignKey("Team", models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    # Not stored: Django would write it before the audit row of the sign-in, which has the time too.
    last_login = None

    objects: ClassVar[UserManager] = UserManager()

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="one_person_an_email")]

    def __str__(self) -> str:
        return self.email

    @sensitive_variables("raw_password")
    def check_password(self, raw_password: str | None) -> bool:
        """Django's, except that a newer hash of this password never replaces one that was set at the same time."""

        def upgrade(password: str) -> None:
            newer = make_password(password)
            if User.objects.filter(pk=self.pk, password=self.password).update(password=newer):
                self.password = newer

        return check_password(raw_password, self.password, upgrade)

    @property
    def label(self) -> str:
        """The person's name in the audit log: the address, and who entered it if it is not verified."""
        if self.email_status == EmailStatus.VERIFIED:
            return self.email
        return f"{self.email} (not verified, {self.email_status} by {self.email_vouched_by})"


@dataclass(frozen=True, slots=True)
class Limit:
    """The maximum number of attempts in a window, which starts with the first one."""

    name: str
    attempts: int
    window: timedelta

    def bucket(self, *of: str) -> str:
        return hashlib.sha256("\0".join((self.name, *of)).encode("utf-8", "surrogatepass")).hexdigest()


class SignInCountManager(models.Manager["SignInCount"]):
    def try_count(self, limit: Limit, *of: str) -> bool:
        """Count one attempt, unless the window is full. Each step is one statement that only one of several parallel
        attempts can win.
        """
        now = timezone.now()
        rows = self.filter(bucket=limit.bucket(*of))
        one_more = {"attempts": models.F("attempts") + 1}
        within = rows.filter(ahead("ends_at", now, limit.window), attempts__lt=limit.attempts)
        if within.update(**one_more):
            return True
        anew = {"ends_at": now + limit.window, "attempts": 1, "is_reported": False}
        if rows.filter(over("ends_at", now, limit.window)).update(**anew):
            return True
        # Check the count again: another attempt may have created the row since the first update.
        if rows.filter(ahead("ends_at", now, limit.window), attempts__gte=limit.attempts).exists():
            return False
        try:
            with transaction.atomic():
                self.create(bucket=limit.bucket(*of), **anew)
        except IntegrityError:
            return bool(within.update(**one_more))  # another attempt has just created it
        return True


class SignInCount(models.Model):
    """Sign-in attempts of one kind, or acts of one person, within one window. `bucket` is a digest, so that typed
    text is never stored.
    """

    bucket = models.CharField(max_length=64, primary_key=True)
    ends_at = models.DateTimeField(db_index=True)
    attempts = models.PositiveIntegerField(default=1)
    # Set by the first refused attempt, so that only this one is reported.
    is_reported = models.BooleanField(default=False)

    objects: ClassVar[SignInCountManager] = SignInCountManager()

    def __str__(self) -> str:
        return f"{self.attempts} until {self.ends_at}"
