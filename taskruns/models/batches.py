"""A batch cancels many runs, or starts many ended runs again: the frozen list of runs, and the state of each."""

import uuid

from django.db import models
from django.utils import timezone

from .audit import LONGEST_REASON
from .cancellations import Cancellation
from .credentials import Credential
from .outcomes import CANCEL_FACTS, TRIGGER_FACTS, Effect, TriggerOutcome
from .people import User
from .runs import Run
from .teams import Team
from .triggers import Trigger


class BatchKind(models.TextChoices):
    """What a batch does to its runs. TRIGGER: for each ended run, a new run of its task is started."""

    CANCEL = "cancel"
    TRIGGER = "trigger"

    @property
    def attempt(self) -> str:
        """The column of an item with its latest request."""
        return "cancellation" if self is BatchKind.CANCEL else "trigger"


class BatchState(models.TextChoices):
    """DRAFT: waits for confirmation. ABORTED: nothing more is sent; cancels already sent are still tracked."""

    DRAFT = "draft"
    WORKING = "working"
    FINISHED = "finished"
    ABORTED = "aborted"


class BatchSource(models.TextChoices):
    """How the runs were chosen."""

    SELECTION = "selection"
    FILTER = "filter"
    RETRY = "retry"
    STOP = "stop"
    BATCH = "batch"  # runs that an earlier batch cancelled, to start them again


class ItemState(models.TextChoices):
    """The state of a run in a batch until its request has an outcome; from then on, the outcome is its state.

    QUEUED: nothing was sent, or what was sent is known to have changed nothing. SENT: a request is in progress, or its
    outcome is not known yet. LEFT_OUT: the batch was aborted before anything was sent for this run.

    The others are only for runs to start again, and nothing is sent for them. HELD: an emergency stop holds the task.
    ALREADY_STARTED: another batch started it again, or may have. NO_WINDOW, LONG_WINDOW: Arize did not report the time
    range of its data, or accepts none that long. UNKNOWN_TYPE: the panel cannot start tasks of this type.
    """

    QUEUED = "queued"
    SENT = "sent"
    LEFT_OUT = "left_out"
    HELD = "held"
    ALREADY_STARTED = "already_started"
    NO_WINDOW = "no_window"
    LONG_WINDOW = "long_window"
    UNKNOWN_TYPE = "unknown_type"


OPEN_ITEMS = (ItemState.QUEUED, ItemState.SENT)
ITEM_OUTCOMES = tuple(outcome for outcome, facts in CANCEL_FACTS.items() if facts.effect is not Effect.OPEN)
START_OUTCOMES = tuple(outcome for outcome, facts in TRIGGER_FACTS.items() if outcome and facts.has_row)
# Known when the list is made: these runs are listed, but never started.
NOT_STARTABLE = (ItemState.ALREADY_STARTED, ItemState.NO_WINDOW, ItemState.LONG_WINDOW, ItemState.UNKNOWN_TYPE)
# A run in one of these states must not be started a second time.
STARTED = (ItemState.SENT, TriggerOutcome.DONE, TriggerOutcome.UNKNOWN)
# Every state of an item with its label. Cancels and starts share some outcomes.
_STATES = (*OPEN_ITEMS, *ITEM_OUTCOMES, *START_OUTCOMES, ItemState.LEFT_OUT, ItemState.HELD, *NOT_STARTABLE)
ITEM_STATES = {state.value: str(state.label) for state in _STATES}


class CancelBatch(models.Model):
    """The list of runs is fixed when the draft is made; runs that match later are not added.

    Its id is the operation id of its own audit rows and the `batch_id` of each run's.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="batches")
    kind = models.CharField(max_length=10, choices=BatchKind.choices, default=BatchKind.CANCEL)
    # For starts: `override_evaluations`, and `experiment_name`, the pattern of the names of new experiments.
    options = models.JSONField(default=dict)
    source = models.CharField(max_length=10, choices=BatchSource.choices)
    stop = models.ForeignKey("EmergencyStop", models.SET_NULL, null=True, related_name="batches")
    filters = models.TextField(blank=True)  # the board's canonical query string
    previous = models.ForeignKey("self", models.SET_NULL, null=True, related_name="retries")
    passed_over = models.IntegerField(default=0)  # chosen runs that had already ended
    left_out = models.IntegerField(default=0)  # runs that matched only later
    created_at = models.DateTimeField(default=timezone.now)
    state = models.CharField(max_length=10, choices=BatchState.choices, default=BatchState.DRAFT)
    drafted_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")

    # Who confirmed it, as in the audit log. Their right is checked again before each run.
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    person_label = models.CharField(max_length=254, blank=True)
    person_role = models.CharField(max_length=40, blank=True)
    asker = models.JSONField(default=dict)
    reason = models.CharField(max_length=LONGEST_REASON, blank=True)
    started_at = models.DateTimeField(null=True)

    aborted_at = models.DateTimeField(null=True)
    why_aborted = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)  # every item has its outcome
    claimed_until = models.DateTimeField(null=True)  # by a worker
    due_at = models.DateTimeField(default=timezone.now)  # no work before then

    class Meta:
        indexes = [
            models.Index(fields=["team", "-created_at"], name="batch_newest"),
            models.Index(fields=["due_at"], condition=models.Q(finished_at=None), name="batch_unfinished"),
        ]

    def __str__(self) -> str:
        return f"{self.state} batch by {self.person_label or 'nobody yet'}"


class CancelItem(models.Model):
    """One run of a batch. `attempts`: POSTs that may have arrived or could not be sent, without those answered 429.

    `body`: for a start, the request body, fixed when the batch is confirmed.
    """

    batch = models.ForeignKey(CancelBatch, models.CASCADE, related_name="items")
    run = models.ForeignKey(Run, models.CASCADE, related_name="cancel_items")
    state = models.CharField(max_length=20, choices=list(ITEM_STATES.items()), default=ItemState.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    readings = models.PositiveSmallIntegerField(default=0)  # re-reads while the outcome is unknown
    next_try_at = models.DateTimeField(default=timezone.now)
    # The latest one. `joined`: it was opened by another action, and the item takes over its outcome.
    cancellation = models.ForeignKey(Cancellation, models.SET_NULL, null=True, related_name="items")
    joined = models.BooleanField(default=False)
    trigger = models.ForeignKey(Trigger, models.SET_NULL, null=True, related_name="items")  # the latest one
    body = models.JSONField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["batch", "run"], name="one_item_a_run_and_batch"),
            models.UniqueConstraint(
                fields=["run"],
                condition=models.Q(trigger__isnull=False, state__in=[state.value for state in STARTED]),
                name="one_start_a_run",
            ),
        ]
        indexes = [
            models.Index(fields=["batch", "state", "next_try_at"], name="item_to_do"),
            models.Index(fields=["state"], condition=models.Q(state="unknown"), name="item_unknown"),
        ]

    def __str__(self) -> str:
        return f"{self.state} item of {self.batch_id}"


class CancelPace(models.Model):
    """The rate limit of one key's batches, shared by all workers: nothing is sent before `free_at`.

    An episode lasts from the first pause to the next success. Within it, one request is sent after each pause: a probe.
    """

    credential = models.OneToOneField(Credential, models.CASCADE, primary_key=True, related_name="cancel_pace")
    free_at = models.DateTimeField(default=timezone.now)
    paused_until = models.DateTimeField(null=True)
    pause_reason = models.TextField(blank=True)
    refusals = models.PositiveIntegerField(default=0)  # in a row
    paused_at = models.DateTimeField(null=True)  # failures of cancels opened before are of the same burst
    pauses = models.PositiveIntegerField(default=0)  # of this episode
    probe_until = models.DateTimeField(null=True)  # a probe has no answer yet

    def __str__(self) -> str:
        return f"pace of {self.credential_id}"
