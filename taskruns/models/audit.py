"""The audit log's tables: append-only by trigger, by model and by queryset. Only `taskruns.audit` writes to them."""

import uuid
from typing import Any, NoReturn, TypeVar

from django.db import models
from django.utils import timezone

LONGEST_REASON = 512  # characters, wherever a person gives a reason
M = TypeVar("M", bound=models.Model)


class AppendOnly(Exception):
    """Some code tried to change rows of the log."""


def _refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    message = "The audit log is append-only."
    raise AppendOnly(message)


class AppendOnlyQuerySet(models.QuerySet[M]):
    update = delete = bulk_update = update_or_create = _refuse
    # Only `record()` may save a row: it needs a number and a hash.
    create = bulk_create = get_or_create = _refuse


class AppendOnlyRow(models.Model):
    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            _refuse()
        super().save(*args, **kwargs)

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        _refuse()


class AuditChain(models.Model):
    """The newest row of each chain. Locked to assign the next number. A cache, never proof."""

    chain = models.CharField(primary_key=True, max_length=45)
    seq = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)

    def __str__(self) -> str:
        return f"{self.chain} at {self.seq}"


class AuditEvent(AppendOnlyRow):
    """One row of the log. Names are copies and ids have no constraint, so that a row outlives what it is about.

    Every column except the primary key is part of the hash. In order: place in the chain, event, actor, target, reason,
    and the link to the previous row.
    """

    schema = models.SmallIntegerField(default=1)
    chain = models.CharField(max_length=45)
    seq = models.BigIntegerField()
    event_id = models.UUIDField(default=uuid.uuid4, unique=True)
    at = models.DateTimeField()
    event = models.CharField(max_length=40)
    outcome = models.CharField(max_length=20)
    actor_type = models.CharField(max_length=10)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_label = models.CharField(max_length=254, blank=True)
    actor_role = models.CharField(max_length=40, blank=True)
    auth_method = models.CharField(max_length=60, blank=True)
    session_ref = models.CharField(max_length=64, blank=True)
    ip = models.CharField(max_length=45, blank=True)
    user_agent = models.CharField(max_length=300, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    operation_id = models.UUIDField(null=True)
    team_id = models.UUIDField(null=True)
    team_label = models.CharField(max_length=100, blank=True)
    target_type = models.CharField(max_length=30, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    target_label = models.CharField(max_length=300, blank=True)
    endpoint = models.CharField(max_length=300, blank=True)
    task_id = models.CharField(max_length=600, blank=True)
    run_id = models.CharField(max_length=600, blank=True)
    credential_id = models.UUIDField(null=True)
    reason = models.CharField(max_length=LONGEST_REASON, blank=True)
    details = models.JSONField(default=dict)
    prev_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    is_damaged = False  # set when a row is read that someone has changed by hand

    class Meta:
        constraints = [models.UniqueConstraint(fields=["chain", "seq"], name="one_row_a_number")]
        indexes = [
            models.Index(fields=["chain", "target_id", "seq"], name="audit_by_target"),
            models.Index(fields=["operation_id"], name="audit_by_operation"),
            # What the page reads: a chain, or the rows of one run, person, event or request.
            models.Index(fields=["chain", "id"], name="audit_by_chain"),
            models.Index(fields=["run_id", "id"], name="audit_by_run"),
            models.Index(fields=["actor_id", "id"], name="audit_by_actor"),
            models.Index(fields=["event", "id"], name="audit_by_event"),
            models.Index(fields=["request_id", "id"], name="audit_by_request"),
            # For finding the first row of a day, in one chain and in all.
            models.Index(fields=["chain", "at"], name="audit_by_chain_and_time"),
            models.Index(fields=["at"], name="audit_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.chain} {self.seq} {self.event} {self.outcome}"


class AuditAnchor(AppendOnlyRow):
    """A signature over a chain's newest row. Its copy outside the database reveals what the chain alone cannot."""

    chain = models.CharField(max_length=45)
    seq = models.BigIntegerField()
    hash = models.CharField(max_length=64)
    signed_at = models.DateTimeField()
    key_id = models.CharField(max_length=16)
    signature = models.CharField(max_length=88)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["chain", "seq", "key_id"], name="one_anchor_a_row_and_key")]

    def __str__(self) -> str:
        return f"{self.chain} at {self.seq}, signed by {self.key_id}"


class AnchorToPublish(models.Model):
    """An anchor that is not in AUDIT_ANCHOR_FILE yet. Created with the anchor, deleted when it is written there."""

    anchor = models.OneToOneField(AuditAnchor, on_delete=models.DO_NOTHING, db_constraint=False, primary_key=True)

    def __str__(self) -> str:
        return f"{self.anchor}, not published"


class AuditReading(models.Model):
    """When a person's reading of a chain was last recorded: once an hour, however often they open the page."""

    actor_id = models.CharField(max_length=64)
    chain = models.CharField(max_length=45)
    recorded_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["actor_id", "chain"], name="one_reading_a_person_and_chain")]

    def __str__(self) -> str:
        return f"{self.actor_id} read {self.chain}"


class AnonymousTally(models.Model):
    """Anonymous attempts from one network in one minute: the log has a row for the first, the others are counted.

    `ip` is an IPv4 address, an IPv6 network (/64) or "*": more networks than the log takes in a minute.
    """

    event = models.CharField(max_length=40)
    outcome = models.CharField(max_length=20)
    ip = models.CharField(max_length=45, blank=True)
    minute = models.DateTimeField()
    left_out = models.IntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["event", "outcome", "ip", "minute"], name="one_tally_a_minute_and_address")
        ]

    def __str__(self) -> str:
        return f"{self.left_out} more {self.event} {self.outcome} from {self.ip}"


class PersonTally(models.Model):
    """Refused attempts of one person in one minute: the log has rows for the first of them, the others are counted."""

    actor_id = models.CharField(max_length=64)
    chain = models.CharField(max_length=45)
    minute = models.DateTimeField()
    attempts = models.IntegerField(default=1)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["actor_id", "chain", "minute"], name="one_tally_a_minute_and_person")
        ]

    def __str__(self) -> str:
        return f"{self.attempts} refused attempts of {self.actor_id} in {self.chain}"


class AuditVerification(models.Model):
    """One verification of all chains, started on the page: its progress and result."""

    class Result(models.TextChoices):
        RUNNING = "running"
        CLEAN = "clean"
        FAULTS = "faults"
        BROKEN_OFF = "broken off"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    asked_by = models.CharField(max_length=254)
    asker = models.JSONField(default=dict)  # the same person, as the audit log will name them
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)
    result = models.CharField(max_length=10, choices=Result.choices, default=Result.RUNNING)
    seen_at = models.DateTimeField(null=True)  # last heartbeat of the job
    rows = models.BigIntegerField(default=0)
    rows_expected = models.BigIntegerField(default=0)
    faults = models.JSONField(default=list)  # the first of each chain, as sentences
    fault_count = models.BigIntegerField(default=0)
    compared = models.BooleanField(default=False)  # with the anchors outside the database
    notes = models.JSONField(default=list)  # worth knowing but not faults, as sentences

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["result"], condition=models.Q(result="running"), name="one_verification_at_a_time"
            )
        ]

    def __str__(self) -> str:
        return f"{self.result} at {self.started_at}"
