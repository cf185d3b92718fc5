"""The mirror of Arize's runs.

Text from Arize has no length limit, so its columns are text. A run is identified by team, endpoint and Arize id.
"""

import uuid
from datetime import datetime, timedelta

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

PENDING_LONG = timedelta(minutes=10)
# In this share of a run's items, errors need attention.
MANY_ERRORS = 10  # percent
# An ended run is counted, and needs attention, for this long.
LATELY = timedelta(hours=24)
EARLIEST = 1970  # servers written in Go send the year 1 for "not yet"


class Attention(models.IntegerChoices):
    """Why a run needs a person, the worst reason largest. Only FAILED and MANY_ERRORS outlive the run's end."""

    NONE = 0
    UNKNOWN_STATE = 1
    CANCEL_OPEN = 2
    PENDING_LONG = 3
    LONGER_THAN_USUAL = 4
    MANY_ERRORS = 5
    FAILED = 6


_ENDED_WITH_ERRORS = models.Q(with_errors=True, ended_at__isnull=False)
_ENDED_LONGER = models.Q(longer_than_usual=True, ended_at__isnull=False)


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
    # Start of the request that last showed it active, set when it ends. While it is active, see `observed_at`.
    last_active_at = models.DateTimeField(null=True)
    # When reading this run by itself last failed, unless it has worked since.
    look_failed_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    gone_since = models.DateTimeField(null=True)

    # Facts that filters and marks read, so that no page computes them from the clock. Set by readings, by cancels and
    # by `services/runs/facts.py`. While `is_filled_in` is null, they may not be computed yet.
    with_errors = models.BooleanField(null=True)  # some items errored, whatever the status
    longer_than_usual = models.BooleanField(null=True)  # at the moment, or when the run ended
    pending_long = models.BooleanField(null=True)  # only while it is pending
    # When an active run was first seen, or its number of succeeded, errored and skipped items last changed.
    progress_changed_at = models.DateTimeField(null=True)
    # A cancel of the active run is not confirmed: it is open, or Arize refused it or did not say what it did.
    cancel_open = models.BooleanField(null=True, default=False, db_default=False)
    # How much the run needs a person; 0 not at all. Back to 0 a day after the run has ended.
    attention = models.SmallIntegerField(null=True, default=0, db_default=0)
    # The percentage of errors among succeeded and errored items, rounded down. Null: there are none.
    error_share = models.SmallIntegerField(null=True)
    # When the run ended, or when the panel first saw that it had. Null: it has not ended.
    ended_at = models.DateTimeField(null=True)
    # Null: written before an upgrade that added columns and the texts of the search, which are not filled in yet.
    is_filled_in = models.BooleanField(null=True, default=True)

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
            # In the board's order. A run that is pending is active, so `run_board` with rank 1 is enough for those.
            models.Index(
                fields=["team", "-rank", "-sorted_at", "-id"],
                name="run_board_with_errors",
                condition=models.Q(with_errors=True),
            ),
            models.Index(
                fields=["team", "-rank", "-sorted_at", "-id"],
                name="run_board_longer",
                condition=models.Q(longer_than_usual=True),
            ),
            models.Index(
                fields=["team", "-rank", "-sorted_at", "-id"],
                name="run_board_attention",
                condition=models.Q(attention__gt=0),
            ),
            models.Index(
                fields=["team", "-attention", "-sorted_at", "-id"],
                name="run_by_attention",
                condition=models.Q(attention__gt=0),
            ),
            # For filters and for the counts of the last 24 hours.
            models.Index(fields=["team", "status", "ended_at"], name="run_ended_by_status"),
            models.Index(fields=["team", "ended_at"], name="run_ended_with_errors", condition=_ENDED_WITH_ERRORS),
            models.Index(fields=["team", "ended_at"], name="run_ended_longer", condition=_ENDED_LONGER),
            models.Index(fields=["ended_at"], name="run_ended_attention", condition=models.Q(attention__gt=0)),
            models.Index(fields=["team", "error_share"], name="run_by_share", condition=models.Q(error_share__gt=0)),
            models.Index(fields=["team", "created_by_user_id", "-rank", "-sorted_at", "-id"], name="run_by_creator"),
            # Empty unless columns have to be filled in.
            models.Index(fields=["-sorted_at"], name="run_not_filled_in", condition=models.Q(is_filled_in=None)),
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

    def until(self, now: datetime) -> datetime | None:
        """When the run ended, or now if it is active. None: it has ended, but Arize does not say when."""
        return self.run_finished_at or (now if self.is_active else None)

    def exceeds_usual(self, until: datetime) -> bool:
        """Whether a run that took until then is longer than usual. False if unknown. Expects `task` to be loaded."""
        started, limit = true_time(self.run_started_at), self.task.usual_limit
        return started is not None and limit is not None and until - started > limit

    def end(self, seen_at: datetime) -> datetime | None:
        """`ended_at`: what Arize says, else what is stored, else `seen_at`. None unless it has ended."""
        if self.is_active or self.status == Status.UNKNOWN:
            return None
        return true_time(self.run_finished_at) or self.gone_since or self.ended_at or seen_at

    def needs(self, now: datetime) -> Attention:
        """How much the run needs a person. Expects the other facts to be set."""
        is_over = self.ended_at is not None and self.ended_at <= now - LATELY
        if self.status in {Status.CANCELLED, Status.GONE} or is_over:
            return Attention.NONE
        if self.status == Status.FAILED:
            return Attention.FAILED
        errors = self.num_errors or 0
        if 100 * errors > MANY_ERRORS * (errors + (self.num_successes or 0)):
            return Attention.MANY_ERRORS
        if self.status == Status.UNKNOWN:
            return Attention.UNKNOWN_STATE
        return self._needs_while_active() if self.is_active else Attention.NONE

    def _needs_while_active(self) -> Attention:
        if self.longer_than_usual:
            return Attention.LONGER_THAN_USUAL
        if self.pending_long:
            return Attention.PENDING_LONG
        return Attention.CANCEL_OPEN if self.cancel_open else Attention.NONE

    def has_waited_long(self, now: datetime) -> bool:
        """Whether the run is pending and has been for long."""
        return self.status == Status.PENDING and now - (true_time(self.created_at) or self.first_seen_at) > PENDING_LONG


def share_of(succeeded: int | None, errored: int | None) -> int | None:
    """The percentage of errors, rounded down; None without items."""
    items = (succeeded or 0) + (errored or 0)
    return 100 * (errored or 0) // items if items > 0 else None


def true_time(at: datetime | None) -> datetime | None:
    """The time, if it is plausible."""
    return None if at is None or at.year < EARLIEST else at
