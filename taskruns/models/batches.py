"""A batch: one cancel of many runs. The frozen list, and how far each run of it is."""

import uuid

from django.db import models
from django.utils import timezone

from .audit import LONGEST_REASON
from .cancellations import Cancellation
from .credentials import Credential
from .outcomes import CANCEL_FACTS, Effect
from .people import User
from .runs import Run
from .teams import Team


class BatchState(models.TextChoices):
    """DRAFT: shown for confirmation, nothing happens. ABORTED: nothing more is sent, what was sent is followed."""

    DRAFT = "draft"
    WORKING = "working"
    FINISHED = "finished"
    ABORTED = "aborted"


class BatchSource(models.TextChoices):
    """Where the list came from."""

    SELECTION = "selection"
    FILTER = "filter"
    RETRY = "retry"
    STOP = "stop"


class ItemState(models.TextChoices):
    """What a run of a batch is in while its cancel has no outcome; then its state is the outcome.

    QUEUED: nothing was sent, or what was sent is known to have changed nothing. SENT: a cancellation is in progress, or
    its outcome has to be found out. LEFT_OUT: the batch was aborted before its turn came.
    """

    QUEUED = "queued"
    SENT = "sent"
    LEFT_OUT = "left_out"


OPEN_ITEMS = (ItemState.QUEUED, ItemState.SENT)
ITEM_OUTCOMES = tuple(outcome for outcome, facts in CANCEL_FACTS.items() if facts.effect is not Effect.OPEN)
# Every state of an item with its label.
ITEM_STATES = {state.value: str(state.label) for state in (*OPEN_ITEMS, *ITEM_OUTCOMES, ItemState.LEFT_OUT)}


class CancelBatch(models.Model):
    """The runs are frozen with the draft; what matches later is not among them.

    Its id is the operation id of its own audit rows and the `batch_id` of each run's.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="batches")
    source = models.CharField(max_length=10, choices=BatchSource.choices)
    stop = models.ForeignKey("EmergencyStop", models.SET_NULL, null=True, related_name="batches")
    filters = models.TextField(blank=True)  # the board's canonical query string
    previous = models.ForeignKey("self", models.SET_NULL, null=True, related_name="retries")
    passed_over = models.IntegerField(default=0)  # runs asked for that had ended when the list was made
    left_out = models.IntegerField(default=0)  # runs that matched only after the list was made
    created_at = models.DateTimeField(default=timezone.now)
    state = models.CharField(max_length=10, choices=BatchState.choices, default=BatchState.DRAFT)

    # Who confirmed it, as the log's rows have it; their right is checked again before each run.
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
    due_at = models.DateTimeField(default=timezone.now)  # there is nothing to do before

    class Meta:
        indexes = [
            models.Index(fields=["team", "-created_at"], name="batch_newest"),
            models.Index(fields=["due_at"], condition=models.Q(finished_at=None), name="batch_unfinished"),
        ]

    def __str__(self) -> str:
        return f"{self.state} cancel of many by {self.person_label or 'nobody yet'}"


class CancelItem(models.Model):
    """One run of a batch. `attempts` are POSTs that may have arrived, or could not be sent; a 429 is none."""

    batch = models.ForeignKey(CancelBatch, models.CASCADE, related_name="items")
    run = models.ForeignKey(Run, models.CASCADE, related_name="cancel_items")
    state = models.CharField(max_length=20, choices=list(ITEM_STATES.items()), default=ItemState.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    readings = models.PositiveSmallIntegerField(default=0)  # of a run whose outcome is not known
    next_try_at = models.DateTimeField(default=timezone.now)
    # The last one opened for it. A joined item follows one that another act opened.
    cancellation = models.ForeignKey(Cancellation, models.SET_NULL, null=True, related_name="items")
    joined = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["batch", "run"], name="one_item_a_run_and_batch")]
        indexes = [
            models.Index(fields=["batch", "state", "next_try_at"], name="item_to_do"),
            models.Index(fields=["state"], condition=models.Q(state="unknown"), name="item_unknown"),
        ]

    def __str__(self) -> str:
        return f"{self.state} item of {self.batch_id}"


class CancelPace(models.Model):
    """How fast one key may cancel in batches, over all workers and batches: the next free place in time."""

    credential = models.OneToOneField(Credential, models.CASCADE, primary_key=True, related_name="cancel_pace")
    free_at = models.DateTimeField(default=timezone.now)
    paused_until = models.DateTimeField(null=True)
    pause_reason = models.TextField(blank=True)
    refusals = models.PositiveIntegerField(default=0)  # in a row, since the last good answer

    def __str__(self) -> str:
        return f"pace of {self.credential_id}"
