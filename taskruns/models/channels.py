"""Channels tell people about runs, cancels, stops and keys: where to, about what, and what became of each message."""

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.encryption import Ciphertext, Ring

from .people import User
from .runs import Run
from .stamps import is_ahead
from .teams import Team

LONGEST_MUTE = timedelta(days=30)


class ChannelKind(models.TextChoices):
    EMAIL = "email", "email"
    SLACK = "slack", "Slack-compatible webhook"
    WEBHOOK = "webhook", "signed webhook"
    TEAMS = "teams", "Microsoft Teams workflow"
    PAGERDUTY = "pagerduty", "PagerDuty"


class Happening(models.TextChoices):
    """What a channel can tell people about. What the audit log records has the same code as there."""

    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    RUN_WITH_ERRORS = "run.completed_with_errors"
    RUN_LONGER = "run.longer_than_usual"
    RUN_RUNNING = "run.running_longer_than"
    RUN_PENDING = "run.pending_longer_than"
    RUN_IDLE = "run.no_progress"
    RUN_CANCEL = "run.cancel"
    RUN_CANCEL_MANY = "run.cancel_many"
    NOT_STOPPED = "cancel.not_stopped"
    STOP_PULL = "stop.pull"
    STOP_LIFT = "stop.lift"
    STOP_EXPIRING = "stop.expiring"
    STOP_EXPIRE = "stop.expire"
    CREDENTIAL_FAILING = "credential.failing"
    CREDENTIAL_RECOVERED = "credential.recovered"
    CREDENTIAL_EXPIRING = "credential.expiring"
    TOKEN_EXPIRING = "token.expiring"  # noqa: S105 - an event's name
    TOKEN_EXPIRE = "token.expire"  # noqa: S105 - an event's name
    TOKEN_STOPPED = "token.stopped"  # noqa: S105 - an event's name
    ARIZE_UNREACHABLE = "arize.unreachable"
    ARIZE_RECOVERED = "arize.recovered"


# What a run itself does. The mirror writes a `RunFact` for each, in the transaction of the reading.
OF_READINGS = frozenset({Happening.RUN_FAILED, Happening.RUN_CANCELLED, Happening.RUN_WITH_ERRORS})
# What an active run comes to with time, by the thresholds of each rule.
OF_ACTIVE_RUNS = frozenset({Happening.RUN_LONGER, Happening.RUN_RUNNING, Happening.RUN_PENDING, Happening.RUN_IDLE})
# What else only time brings. The tick writes an `Episode` for each.
OF_TIME = OF_ACTIVE_RUNS | {
    *(Happening.NOT_STOPPED, Happening.STOP_EXPIRING, Happening.ARIZE_UNREACHABLE, Happening.ARIZE_RECOVERED),
    *(Happening.TOKEN_EXPIRING, Happening.TOKEN_STOPPED),
}
# About one run, so that a rule's filter applies.
OF_RUNS = OF_READINGS | OF_ACTIVE_RUNS | {Happening.RUN_CANCEL, Happening.NOT_STOPPED}
# Of the team's chain in the audit log: event -> outcomes. The outcomes of a cancel that sent nothing are no news.
OF_THE_LOG: dict[Happening, frozenset[str]] = {
    Happening.RUN_CANCEL: frozenset(
        {"confirmed", "finished_first", "failed_first", "already_cancelled"}
        | {"still_running", "refused", "not_sent", "unknown"}
    ),
    Happening.RUN_CANCEL_MANY: frozenset({"finished", "aborted"}),
    Happening.STOP_PULL: frozenset({"done"}),
    Happening.STOP_LIFT: frozenset({"done"}),
    Happening.STOP_EXPIRE: frozenset({"done"}),
    Happening.CREDENTIAL_FAILING: frozenset({"done"}),
    Happening.CREDENTIAL_RECOVERED: frozenset({"done"}),
    Happening.CREDENTIAL_EXPIRING: frozenset({"done"}),
    Happening.TOKEN_EXPIRE: frozenset({"done"}),
}
# What a new channel is told about unless its manager chooses otherwise.
SUGGESTED = (
    *(Happening.RUN_FAILED, Happening.NOT_STOPPED, Happening.ARIZE_UNREACHABLE, Happening.ARIZE_RECOVERED),
    *(Happening.STOP_PULL, Happening.STOP_LIFT, Happening.STOP_EXPIRING, Happening.STOP_EXPIRE),
    *(Happening.CREDENTIAL_FAILING, Happening.CREDENTIAL_RECOVERED, Happening.CREDENTIAL_EXPIRING),
    *(Happening.TOKEN_EXPIRING, Happening.TOKEN_STOPPED),
)
# A kind that keeps incidents is told when these are over: the run has ended, the key works again, the stop is over.
WITH_AN_END = OF_ACTIVE_RUNS | {
    *(Happening.NOT_STOPPED, Happening.CREDENTIAL_FAILING, Happening.ARIZE_UNREACHABLE),
    *(Happening.STOP_PULL, Happening.STOP_EXPIRING),
}
KEEPS_INCIDENTS = frozenset({ChannelKind.PAGERDUTY})
# The events of messages that no rule asks for: a test, the sum of held messages, and a run that a person waits for.
TEST, SUMMARY, RUN_ENDED = "channel.test", "summary", "run.ended"


class ChannelQuerySet(models.QuerySet["Channel"]):
    def live(self) -> "ChannelQuerySet":
        return self.filter(removed_at=None, team__archived_at=None)


class Channel(models.Model):
    """Its address (and signing secret) is encrypted like an API key, and deleted when the channel is removed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="channels")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=10)  # of `ChannelKind`
    ring_number = models.PositiveIntegerField()
    ciphertext = models.TextField()
    hint = models.CharField(max_length=4, blank=True)  # the last characters of the address
    is_on = models.BooleanField(default=True)
    muted_until = models.DateTimeField(null=True, blank=True)
    muted_by_label = models.CharField(max_length=254, blank=True)
    missed = models.PositiveIntegerField(default=0)  # messages not sent since it was muted or turned off
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created_by_label = models.CharField(max_length=254)
    created_at = models.DateTimeField(default=timezone.now)
    removed_at = models.DateTimeField(null=True, blank=True)

    # Health. `failures` attempts in a row failed; until `rests_until` nothing is sent.
    last_sent_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    failure = models.CharField(max_length=30, blank=True)
    failure_status = models.PositiveSmallIntegerField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    rests_until = models.DateTimeField(null=True, blank=True)

    objects = ChannelQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "team", Lower("name"), condition=models.Q(removed_at=None), name="one_live_channel_a_name"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @sensitive_variables("secret")
    def encrypt_secret(self, secret: str) -> None:
        """Set the address and what else is secret, bound to this row. Does not save."""
        encrypted = Ring(settings.ENCRYPTION_KEYS).encrypt(secret, owner=str(self.pk))
        self.ring_number, self.ciphertext = encrypted.ring_number, encrypted.token

    @sensitive_variables()
    def decrypt_secret(self) -> str:
        """Raises DecryptionFailed."""
        stored = Ciphertext(self.ring_number, self.ciphertext)
        return Ring(settings.ENCRYPTION_KEYS).decrypt(stored, owner=str(self.pk))

    def is_muted(self, now: datetime) -> bool:
        return is_ahead(self.muted_until, now, LONGEST_MUTE)

    def is_silent(self, now: datetime) -> bool:
        return not self.is_on or self.is_muted(now)


class Rule(models.Model):
    """What a channel is told about. `events`: codes of `Happening`. `query`: a board filter, for events about a run."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="rules")
    events = models.JSONField(default=list)
    query = models.TextField(blank=True)
    min_error_share = models.PositiveSmallIntegerField(default=0)  # percent, for runs that completed with errors
    # For active runs: the percentage of the usual duration, and minutes.
    usual_percent = models.PositiveSmallIntegerField(default=200)
    running_minutes = models.PositiveSmallIntegerField(default=60)
    pending_minutes = models.PositiveSmallIntegerField(default=10)
    idle_minutes = models.PositiveSmallIntegerField(default=10)
    # For this long after a message, further ones are held and then sent as one summary. 0: each is sent at once.
    quiet_minutes = models.PositiveSmallIntegerField(default=0)
    quiet_until = models.DateTimeField(null=True, blank=True)
    # Facts from before are not told: when the rule was made, changed, or its channel turned on again.
    since = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{', '.join(self.events)} of {self.channel_id}"


class RunFact(models.Model):
    """A run failed, was cancelled or completed with errors. Written in the transaction of the reading that shows it, if
    a rule of the team wants it; deleted with the transaction that writes the messages.
    """

    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    run = models.ForeignKey(Run, models.CASCADE, related_name="+")
    event = models.CharField(max_length=40)
    at = models.DateTimeField()  # the end of the run

    def __str__(self) -> str:
        return f"{self.event} {self.run_id}"


class Episode(models.Model):
    """Something that time brought, from its beginning until it is over. It is told once, however often it is seen.

    `rule`: the one whose threshold was passed; null if it is the same for all rules of the team. `key`: the rule, the
    event, the subject and the beginning.
    """

    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    rule = models.ForeignKey(Rule, models.CASCADE, null=True, related_name="+")
    event = models.CharField(max_length=40)
    subject = models.CharField(max_length=40)
    key = models.CharField(max_length=200, unique=True)
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        indexes = [models.Index(fields=["event", "subject"], condition=models.Q(ended_at=None), name="episode_open")]

    def __str__(self) -> str:
        return self.key


class RunNotice(models.Model):
    """A person wants to know when this run ends. Deleted with the transaction that writes the message."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="notices")
    person = models.ForeignKey(User, models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "person"], name="one_notice_a_run_and_person")]

    def __str__(self) -> str:
        return f"{self.person_id} waits for {self.run_id}"


class LogPosition(models.Model):
    """Up to which row of the team's audit log its rules have been asked."""

    team = models.OneToOneField(Team, models.CASCADE, primary_key=True, related_name="+")
    seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.team_id} up to {self.seq}"


class DeliveryState(models.TextChoices):
    """HELD: a quiet rule sums it up later. FAILED: it is sent again. GIVEN_UP: it was not sent within a day."""

    HELD = "held"
    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    GIVEN_UP = "given_up"


UNSENT = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.FAILED)
TO_SEND = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.FAILED)


class Delivery(models.Model):
    """One message to one recipient: at most one for each fact. `data`: what the message says, as it was then.

    `recipient`: `rule:<id>`, `person:<id>` or `test:<id>`. `fact`: the event, its subject, when the episode began, and
    the phase.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    channel = models.ForeignKey(Channel, models.CASCADE, null=True, related_name="deliveries")
    person = models.ForeignKey(User, models.CASCADE, null=True, related_name="+")  # instead of a channel
    rule = models.ForeignKey(Rule, models.SET_NULL, null=True, related_name="+")
    recipient = models.CharField(max_length=60)
    fact = models.CharField(max_length=200)
    event = models.CharField(max_length=40)
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="+")
    at = models.DateTimeField()
    data = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=DeliveryState.choices)
    created_at = models.DateTimeField(default=timezone.now)
    next_try_at = models.DateTimeField(default=timezone.now)
    claimed_until = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    # A worker died while sending it, or its request got no answer: the recipient may have it already.
    is_repeat = models.BooleanField(default=False)
    sent_at = models.DateTimeField(null=True)
    status = models.PositiveSmallIntegerField(null=True)  # of the last answer
    failure = models.CharField(max_length=30, blank=True)
    # Its recipient keeps an incident until it is told that this is over.
    is_open = models.BooleanField(default=False)
    summary = models.ForeignKey("self", models.SET_NULL, null=True, related_name="summed_up")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["recipient", "fact"], name="one_delivery_a_recipient_and_fact")]
        indexes = [
            models.Index(
                fields=["next_try_at"],
                condition=models.Q(state__in=["queued", "sending", "failed"]),
                name="delivery_to_send",
            ),
            models.Index(
                fields=["rule", "created_at"],
                condition=models.Q(state="held", summary=None),
                name="delivery_to_sum_up",
            ),
            models.Index(fields=["channel"], condition=models.Q(is_open=True), name="delivery_open"),
            models.Index(fields=["channel", "-created_at"], name="delivery_of_channel"),
            models.Index(fields=["created_at"], name="delivery_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.recipient}: {self.state}"

    @property
    def is_resolve(self) -> bool:
        return self.fact.endswith(":resolve")

    @property
    def subject(self) -> str:
        """What it is about: the id of a run, a key, a stop, or of the message itself."""
        return str(self.data.get("subject") or self.pk)
