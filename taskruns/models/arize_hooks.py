"""The address at which a team takes Arize's webhook, and the secret that Arize proves it knows."""

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.encryption import Ciphertext, Ring

from .people import User
from .teams import Team


class HookAuth(models.TextChoices):
    """How Arize proves that a request is its own: by a signature, or by the token itself."""

    HMAC = "hmac", "signature (HMAC)"
    BEARER = "bearer", "Bearer token"


class ArizeHook(models.Model):
    """`digest`: of the token in its address, which is not stored. Without `ciphertext`, it has no secret yet and takes
    nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="arize_hooks")
    digest = models.CharField(max_length=64, unique=True)
    auth = models.CharField(max_length=10, choices=HookAuth.choices, default=HookAuth.HMAC)
    ring_number = models.PositiveIntegerField(default=0)
    ciphertext = models.TextField(blank=True)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created_by_label = models.CharField(max_length=254)
    created_at = models.DateTimeField(default=timezone.now)
    last_event_at = models.DateTimeField(null=True)
    removed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team"], condition=models.Q(removed_at=None), name="one_live_hook_a_team")
        ]

    def __str__(self) -> str:
        return f"webhook of Arize for {self.team_id}"

    @sensitive_variables("secret")
    def encrypt_secret(self, secret: str) -> None:
        """Bound to this row. Does not save."""
        encrypted = Ring(settings.ENCRYPTION_KEYS).encrypt(secret, owner=str(self.pk))
        self.ring_number, self.ciphertext = encrypted.ring_number, encrypted.token

    @sensitive_variables()
    def decrypt_secret(self) -> str:
        """Raises DecryptionFailed."""
        return Ring(settings.ENCRYPTION_KEYS).decrypt(Ciphertext(self.ring_number, self.ciphertext), owner=str(self.pk))
