"""Tokens: what scripts show instead of a person's session. Only a digest of the secret is stored."""

import uuid
from datetime import datetime, timedelta

from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from .credentials import Credential
from .people import User
from .teams import Team, TeamRole

LONGEST_LABEL = 254
LONGEST_LIFE = timedelta(days=365)


class TokenRole(models.TextChoices):
    """A token is never a manager."""

    VIEWER = TeamRole.VIEWER.value
    OPERATOR = TeamRole.OPERATOR.value


class TokenQuerySet(models.QuerySet["Token"]):
    def live(self, now: datetime) -> "TokenQuerySet":
        """Tokens whose secret works, those included that were replaced and still overlap."""
        return self.unended().filter(expires_at__gt=now)

    def unended(self) -> "TokenQuerySet":
        """Neither revoked nor recorded as expired. Some may have expired since the clock last looked."""
        return self.filter(revoked_at=None, expired_at=None, team__archived_at=None)


class Token(models.Model):
    """`digest`: SHA-256 of the secret, in hex. `hint`: its last characters.

    Without a `maker`, only a token that a command made works: an account that is gone must not widen rights.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    role = models.CharField(max_length=10, choices=TokenRole.choices)
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=4)
    # Null: any key of the team. Never set to null later, which would widen what the token reaches.
    credential = models.ForeignKey(Credential, models.CASCADE, null=True, related_name="tokens")
    networks = models.JSONField(default=list)  # CIDR texts; empty: from anywhere
    maker = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    maker_label = models.CharField(max_length=LONGEST_LABEL)
    made_by_command = models.BooleanField(default=False)  # without an owner: its role alone decides
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)  # when its end was recorded
    # The token that this one replaces, which then works until its own `expires_at`.
    replaces = models.ForeignKey("self", models.SET_NULL, null=True, related_name="replacements")
    replaced_at = models.DateTimeField(null=True)
    expiry_told = models.PositiveSmallIntegerField(null=True)  # the last threshold (days) that was warned about
    maker_told_at = models.DateTimeField(null=True)  # when it was noticed that it stops, or stopped, with its maker

    last_used_at = models.DateTimeField(null=True)
    last_used_ip = models.CharField(max_length=45, blank=True)
    last_used_client = models.CharField(max_length=200, blank=True)

    objects = TokenQuerySet.as_manager()
    # Only set by `services.tokens.access.with_maker_role`: the maker's current role in the team, or "".
    maker_role: str
    maker_signed_in_at: datetime | None  # only set by `with_lapse` there

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "team",
                Lower("name"),
                condition=models.Q(revoked_at=None, expired_at=None, replaced_at=None),
                name="one_live_token_a_name",
            )
        ]
        indexes = [
            models.Index(
                fields=["expires_at"], condition=models.Q(revoked_at=None, expired_at=None), name="token_to_expire"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """Its name in the audit log and on cancels and starts."""
        label = f"{self.name} (made by {self.maker_label})"
        return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 2]}…)"

    def has_ended(self, now: datetime) -> bool:
        return self.revoked_at is not None or self.expired_at is not None or self.expires_at <= now
