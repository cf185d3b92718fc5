"""The mirror of Arize's runs.

Text from Arize has no length limit, so its columns are text. A run is identified by team, endpoint and Arize id.
"""

import uuid

from django.db import models
from django.db.models.functions import Coalesce
from django.utils import timezone

from taskruns.arize.wire import RunStatus

from .tasks import Task
from .teams import Team


class Status(models.TextChoices):
    """Arize's statuses in lower case, and two of ours: `unknown` (any other status) and `gone` (Arize answers 404)."""

    PENDING = RunStatus.PENDING.value
    RUNNING = RunStatus.RUNNING.value
    COMPLETED = RunStatus.COMPLETED.value
    FAILED = RunStatus.FAILED.value
    CANCELLED = RunStatus.CANCELLED.value
    UNKNOWN = RunStatus.UNKNOWN.value
    GONE = "gone"


ACTIVE = (Status.PENDING, Status.RUNNING)


class Run(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="runs")
    task = models.ForeignKey(Task, models.CASCADE, related_name="runs")
    endpoint = models.CharField(max_length=300)
    arize_id = models.TextField()

    # The members of Arize's TaskRun; null: Arize did not send it
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

    # The panel's own columns
    observed_at = models.DateTimeField()  # start of the request that brought the latest state
    # When reading this run by itself last failed, unless it has worked since.
    look_failed_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    gone_since = models.DateTimeField(null=True)

    # Sort columns are never null, so that a page can begin after any row.
    # 1 for active runs, else 0. An integer, because SQLite cannot use an index for `NOT active`.
    rank = models.SmallIntegerField(default=0)
    sorted_at = models.DateTimeField()  # created_at, or when it was first seen
    duration_us = models.BigIntegerField(default=0)  # microseconds; 0 unless started and finished
    sort_started_at = models.GeneratedField(
        expression=Coalesce("run_started_at", "sorted_at"), output_field=models.DateTimeField(), db_persist=True
    )
    sort_errors = models.GeneratedField(
        expression=Coalesce("num_errors", 0), output_field=models.BigIntegerField(), db_persist=True
    )
    creator: str  # only set by `pages.board.rows.with_creators`

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "endpoint", "arize_id"], name="one_run_a_team_and_id")]
        # `pages/board/keyset.py` says what each index is for.
        indexes = [
            models.Index(fields=["team", "-rank", "-sorted_at", "-id"], name="run_board"),
            models.Index(fields=["team", "status", "-rank", "-sorted_at", "-id"], name="run_board_by_status"),
            models.Index(fields=["task", "-rank", "-sorted_at", "-id"], name="run_board_by_task"),
            models.Index(fields=["team", "sorted_at", "id"], name="run_by_created"),
            models.Index(fields=["team", "sort_started_at", "id"], name="run_by_started"),
            models.Index(fields=["team", "duration_us", "id"], name="run_by_duration"),
            models.Index(fields=["team", "sort_errors", "id"], name="run_by_errors"),
            # For searches by the start of an id. Without the operator class, PostgreSQL uses them only in the C locale.
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
        """The run's name on pages: its task's name. Never empty."""
        return str(self.task) or self.arize_id
