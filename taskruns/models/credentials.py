"""A team's Arize API key: its ciphertext, its health, and when it is next used to read."""

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.encryption import Ciphertext, Ring

from .people import User
from .stamps import ahead, is_ahead
from .teams import Team

LONGEST_BACKOFF = timedelta(minutes=5)
# After a wait. Until then the attempt may be in progress; later, no worker makes one.
RETRIED_WITHIN = timedelta(minutes=1)


class CredentialQuerySet(models.QuerySet["Credential"]):
    def live(self) -> "CredentialQuerySet":
        return self.filter(revoked_at=None, team__archived_at=None)

    def usable(self) -> "CredentialQuerySet":
        """Keys that can read: neither revoked nor rejected by Arize."""
        return self.live().filter(failing_since=None)


class Credential(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="credentials")
    name = models.CharField(max_length=100)
    endpoint = models.CharField(max_length=300)
    ring_number = models.PositiveIntegerField()
    ciphertext = models.TextField()
    last4 = models.CharField(max_length=4)
    expires_on = models.DateField(null=True, blank=True)
    expiry_told = models.PositiveSmallIntegerField(null=True, blank=True)  # the last threshold that was warned about
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    revoked_at = models.DateTimeField(null=True, blank=True)
    spaces = models.JSONField(default=list)  # [{"id", "name", "organization_id"}, ...] as last listed

    # Health, according to Arize's answers
    last_good_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    failing_reason = models.TextField(blank=True)
    rejected_at = models.DateTimeField(null=True, blank=True)  # first 401 since the last success, before a second look
    retry_at = models.DateTimeField(null=True, blank=True)  # when a failing key is tried again
    recovered_at = models.DateTimeField(null=True, blank=True)  # when Arize last accepted a failing key again

    # Pace of the mirror (services/mirror/)
    next_refresh_at = models.DateTimeField(default=timezone.now, db_index=True)
    claimed_until = models.DateTimeField(null=True, blank=True)  # a round is in progress
    tasks_read_at = models.DateTimeField(null=True, blank=True)
    # When the last complete listing of tasks began. Null: none is complete yet.
    tasks_listed_from = models.DateTimeField(null=True, blank=True)
    spaces_listed_from = models.DateTimeField(null=True, blank=True)  # when the last complete listing of spaces began
    # Where the next round continues a list of tasks that did not fit into one: {"space": ..., "cursor": ...}
    listing_at = models.JSONField(default=dict)
    list_problem = models.TextField(blank=True)  # why the last list of tasks may be incomplete, or empty
    # Null while tasks of this key wait for their first reading. Boards show the progress only then.
    first_contact_done_at = models.DateTimeField(null=True, blank=True)
    users_refused_at = models.DateTimeField(null=True, blank=True)  # when Arize last refused all names
    backoff_until = models.DateTimeField(null=True, blank=True)
    backoff_since = models.DateTimeField(null=True, blank=True)  # when the first of these failures happened
    backoff_reason = models.TextField(blank=True)
    backoff_is_limit = models.BooleanField(default=False)  # Arize answered 429: batches wait too
    failures = models.PositiveIntegerField(default=0)  # rounds in a row that ended early
    recent_calls = models.JSONField(default=list)  # of the last minute; services/credentials/budget.py

    objects = CredentialQuerySet.as_manager()
    # Only set by `services.mirror.staleness.with_ages`.
    board_version: int
    oldest_status: datetime | None
    has_unsearched: bool
    oldest_search: datetime | None

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "team", Lower("name"), condition=models.Q(revoked_at=None), name="one_live_key_a_name"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @sensitive_variables("key")
    def encrypt_secret(self, key: str) -> None:
        """Set the key, encrypted with the newest ring key and bound to this row. Does not save."""
        encrypted = Ring(settings.ENCRYPTION_KEYS).encrypt(key, owner=str(self.pk))
        self.ring_number, self.ciphertext = encrypted.ring_number, encrypted.token
        # Do not reveal a large part of a short key.
        self.last4 = key[-4:] if len(key) >= 16 else ""

    @sensitive_variables()
    def decrypt_secret(self) -> str:
        """The key in plaintext. Raises DecryptionFailed."""
        stored = Ciphertext(self.ring_number, self.ciphertext)
        return Ring(settings.ENCRYPTION_KEYS).decrypt(stored, owner=str(self.pk))

    def is_backing_off(self, now: datetime) -> bool:
        return is_ahead(self.backoff_until, now, LONGEST_BACKOFF)

    @staticmethod
    def backing_off(now: datetime, *, of: str = "") -> models.Q:
        """Keys that wait; `of`: the path to the key, such as `run__task__credential__`."""
        return ahead(f"{of}backoff_until", now, LONGEST_BACKOFF)

    def is_retried(self, now: datetime) -> bool:
        """Whether it waits after a failure, or its next attempt is being made."""
        return is_ahead(self.backoff_until, now - RETRIED_WITHIN, LONGEST_BACKOFF + RETRIED_WITHIN)


class KeyUsage(models.Model):
    """The calls to Arize with one key in one hour (UTC). `limited`: how many of them Arize answered with 429."""

    credential = models.ForeignKey(Credential, models.CASCADE, related_name="usage")
    hour = models.DateTimeField()
    calls = models.PositiveIntegerField(default=0)
    limited = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint("credential", "hour", name="one_count_an_hour")]
