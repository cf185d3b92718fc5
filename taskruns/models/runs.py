"""The mirror of Arize's tasks and runs, and the cancellations asked for here.

Text from Arize is unbounded, so its columns are text. Identity of a task or run is (team, endpoint, Arize id).
"""

import uuid
from datetime import timedelta

from django.db import models
from django.db.models.functions import Coalesce
from django.utils import timezone

from taskruns.arize.wire import RunStatus, TaskType

from .credentials import Credential
from .people import Team, User


class Status(models.TextChoices):
    """Arize's words in lower case, and two of ours: `unknown` (a word we do not know), `gone` (Arize answers 404)."""

    PENDING = RunStatus.PENDING.value
    RUNNING = RunStatus.RUNNING.value
    COMPLETED = RunStatus.COMPLETED.value
    FAILED = RunStatus.FAILED.value
    CANCELLED = RunStatus.CANCELLED.value
    UNKNOWN = RunStatus.UNKNOWN.value
    GONE = "gone"


ACTIVE = (Status.PENDING, Status.RUNNING)


# A key that goes on listing but has left a task out for so long no longer sees it: another one takes over.
UNLISTED_AFTER = timedelta(minutes=5)
NO_LONGER_LISTED = models.Q(listed_at__lt=models.F("credential__tasks_read_at") - UNLISTED_AFTER)
STILL_LISTED = models.Q(credential__tasks_read_at=None) | models.Q(
    listed_at__gte=models.F("credential__tasks_read_at") - UNLISTED_AFTER
)
NO_USABLE_KEY = (
    models.Q(credential=None)
    | models.Q(credential__revoked_at__isnull=False)
    | models.Q(credential__failing_since__isnull=False)
)


class Task(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="tasks")
    endpoint = models.CharField(max_length=300)
    arize_id = models.TextField()
    # Of several keys that see the task, the one that reads and acts.
    credential = models.ForeignKey(Credential, models.SET_NULL, null=True, related_name="tasks")
    space_id = models.TextField(blank=True)
    space_name = models.TextField(blank=True)
    name = models.TextField(blank=True)
    type = models.CharField(max_length=30, choices=[(t.value, t.value) for t in TaskType], default=TaskType.UNKNOWN)
    is_continuous = models.BooleanField(null=True)
    last_run_at = models.DateTimeField(null=True)
    as_read = models.TextField(default="{}")  # the JSON object as last read
    listed_at = models.DateTimeField(default=timezone.now)
    # When its runs were last listed, and the `last_run_at` that was known then: a moved one is a hint to look.
    runs_read_at = models.DateTimeField(null=True)
    runs_read_to = models.DateTimeField(null=True)
    # How far its runs are known: all that were there at that moment, down to the newest page of the first reading.
    caught_up_at = models.DateTimeField(null=True)
    # Where a walk through its runs broke off, and when that walk began: `services/mirror/walks.py`.
    gap_cursor = models.TextField(blank=True)
    gap_since = models.DateTimeField(null=True)
    active_unread = models.BooleanField(default=False)  # the first reading left older runs out, maybe active ones
    swept_at = models.DateTimeField(null=True)  # when the rolling sweep last took it
    # When reading them last failed, if their list has not worked since.
    runs_failed_at = models.DateTimeField(null=True)
    usual_seconds = models.PositiveIntegerField(null=True)  # how long its runs take; null: too few are known

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "endpoint", "arize_id"], name="one_task_a_team_and_id")]
        indexes = [models.Index(fields=["credential", "runs_read_at"], name="task_oldest_read")]

    def __str__(self) -> str:
        return self.name.strip() or self.arize_id


class Run(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="runs")
    task = models.ForeignKey(Task, models.CASCADE, related_name="runs")
    endpoint = models.CharField(max_length=300)
    arize_id = models.TextField()

    # The members of Arize's TaskRun; null is "Arize sent nothing"
    status = models.CharField(max_length=10, choices=Status.choices)
    raw_status = models.TextField(blank=True)
    experiment_id = models.TextField(null=True)
    run_started_at = models.DateTimeField(null=True)
    run_finished_at = models.DateTimeField(null=True)
    data_start_time = models.DateTimeField(null=True)
    data_end_time = models.DateTimeField(null=True)
    num_successes = models.BigIntegerField(null=True)
    num_errors = models.BigIntegerField(null=True)
    num_skipped = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(null=True)
    created_by_user_id = models.TextField(null=True)
    failure_reason = models.TextField(null=True)
    as_read = models.TextField(default="{}")  # the JSON object as last read

    # The panel's own
    observed_at = models.DateTimeField()  # when the request began whose answer this is
    # When a look at it alone failed, if none has worked since.
    look_failed_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    gone_since = models.DateTimeField(null=True)

    # What lists are sorted by: never null, so that a page can begin after any row.
    # Active runs first, then newest: an integer, because SQLite cannot use an index for `NOT active`.
    rank = models.SmallIntegerField(default=0)
    sorted_at = models.DateTimeField()  # created_at, or when it was first seen
    duration_us = models.BigIntegerField(default=0)  # microseconds; 0 unless started and finished
    sort_started_at = models.GeneratedField(
        expression=Coalesce("run_started_at", "sorted_at"), output_field=models.DateTimeField(), db_persist=True
    )
    sort_errors = models.GeneratedField(
        expression=Coalesce("num_errors", 0), output_field=models.BigIntegerField(), db_persist=True
    )
    creator: str  # read by `services.arize_users.with_creators` only

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "endpoint", "arize_id"], name="one_run_a_team_and_id")]
        # Why each of them is here: `services/board/paging.py`.
        indexes = [
            models.Index(fields=["team", "-rank", "-sorted_at", "-id"], name="run_board"),
            models.Index(fields=["team", "status", "-rank", "-sorted_at", "-id"], name="run_board_by_status"),
            models.Index(fields=["task", "-rank", "-sorted_at", "-id"], name="run_board_by_task"),
            models.Index(fields=["team", "sorted_at", "id"], name="run_by_created"),
            models.Index(fields=["team", "sort_started_at", "id"], name="run_by_started"),
            models.Index(fields=["team", "duration_us", "id"], name="run_by_duration"),
            models.Index(fields=["team", "sort_errors", "id"], name="run_by_errors"),
            # For beginnings of ids; without the class PostgreSQL finds them only where it sorts as C does.
            models.Index(
                fields=["team", "arize_id"], name="run_by_arize_id", opclasses=["uuid_ops", "text_pattern_ops"]
            ),
            models.Index(
                fields=["team", "experiment_id"], name="run_by_experiment", opclasses=["uuid_ops", "text_pattern_ops"]
            ),
        ]

    def __str__(self) -> str:
        return self.arize_id

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def label(self) -> str:
        """How people know it: by its task, never empty."""
        return str(self.task) or self.arize_id


class Outcome(models.TextChoices):
    """How a cancellation ended. Empty: it is open."""

    OPEN = "", "open"
    CONFIRMED = "confirmed"
    FINISHED_FIRST = "finished_first"
    FAILED_FIRST = "failed_first"
    ALREADY_CANCELLED = "already_cancelled"
    STILL_RUNNING = "still_running"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class Cancellation(models.Model):
    """One press of Cancel that was let through. Its id is the operation id of its audit rows."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="cancellations")
    person = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    person_label = models.CharField(max_length=254)
    batch = models.ForeignKey("CancelBatch", models.SET_NULL, null=True, related_name="cancellations")
    reason = models.CharField(max_length=512, blank=True)
    requested_at = models.DateTimeField(default=timezone.now)
    # Arize said 200 but the run goes on: shown as "stopping" until it ends or 300 s have passed.
    stopping_since = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=20, choices=Outcome.choices, blank=True, default=Outcome.OPEN)
    closed_at = models.DateTimeField(null=True)
    explanation = models.TextField(blank=True)  # for the page only, never for the log
    # What Arize answered to the POST itself (status, request id, milliseconds), for the row that tells the end.
    answer = models.JSONField(default=dict)
    # An unknown end is followed until Arize tells the truth or no longer knows the run.
    followed = models.BooleanField(default=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run"], condition=models.Q(outcome=""), name="one_open_cancellation_a_run")
        ]
        indexes = [
            models.Index(
                fields=["requested_at"],
                condition=models.Q(followed=True, outcome__in=["", "unknown"]),
                name="cancellation_to_follow",
            ),
            models.Index(fields=["closed_at"], condition=models.Q(outcome="confirmed"), name="cancellation_to_check"),
        ]

    def __str__(self) -> str:
        return f"{self.outcome or 'open'} cancel of {self.run_id}"


class ArizeUser(models.Model):
    """Somebody whose id a run carries. `known`: Arize told this team's keys a name; most keys may not ask for it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="arize_users")
    endpoint = models.CharField(max_length=300)
    arize_id = models.TextField()
    name = models.TextField(blank=True)
    email = models.TextField(blank=True)
    known = models.BooleanField(default=False)
    read_at = models.DateTimeField(null=True)  # when Arize was last asked; null: not yet

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "endpoint", "arize_id"], name="one_user_a_team_and_id")]
        indexes = [models.Index(fields=["team", "endpoint", "read_at"], name="arize_user_oldest_read")]

    def __str__(self) -> str:
        return self.name or self.email or self.arize_id


class Heartbeat(models.Model):
    """A worker was alive: one row, written each minute."""

    name = models.CharField(primary_key=True, max_length=30)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.seen_at}"
