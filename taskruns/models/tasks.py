"""The mirror of Arize's tasks.

Text from Arize has no length limit, so its columns are text. A task is identified by team, endpoint and Arize id.
"""

import uuid
from datetime import timedelta

from django.db import models
from django.utils import timezone

from taskruns.arize.wire import TaskType

from .credentials import Credential
from .folded import FoldedField, FoldedQuerySet
from .teams import Team

# If a key still lists tasks, but has not listed this one for this long, it no longer sees it. Another key takes over.
UNLISTED_AFTER = timedelta(minutes=5)
# A run is longer than usual if it takes twice the usual duration, and at least a minute more: a run that takes seconds
# is not late after a few more.
TIMES_USUAL = 2
AT_LEAST_OVER = timedelta(minutes=1)
NO_LONGER_LISTED = models.Q(listed_at__lt=models.F("credential__tasks_read_at") - UNLISTED_AFTER)
STILL_LISTED = models.Q(credential__tasks_read_at=None) | models.Q(
    listed_at__gte=models.F("credential__tasks_read_at") - UNLISTED_AFTER
)
HAS_GAP = ~models.Q(gap_cursor="")
NO_USABLE_KEY = (
    models.Q(credential=None)
    | models.Q(credential__revoked_at__isnull=False)
    | models.Q(credential__failing_since__isnull=False)
)


class TaskQuerySet(FoldedQuerySet["Task"]):
    pass


class Task(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, models.CASCADE, related_name="tasks")
    endpoint = models.CharField(max_length=300)
    arize_id = models.TextField()
    # The key that reads and acts for this task, if several keys see it.
    credential = models.ForeignKey(Credential, models.SET_NULL, null=True, related_name="tasks")
    space_id = models.TextField(blank=True)
    space_name = models.TextField(blank=True)
    name = models.TextField(blank=True)
    search_name = FoldedField(of="name")
    search_space = FoldedField(of="space_name")
    type = models.CharField(max_length=30, choices=[(t.value, t.value) for t in TaskType], default=TaskType.UNKNOWN)
    is_continuous = models.BooleanField(null=True)
    last_run_at = models.DateTimeField(null=True)
    as_read = models.TextField(default="{}")  # the JSON object as last read
    listed_at = models.DateTimeField(default=timezone.now)
    # When its runs were last listed, and `last_run_at` at that time. If it has changed, there may be new runs.
    runs_read_at = models.DateTimeField(null=True)
    runs_read_to = models.DateTimeField(null=True)
    # All runs that existed at this time are known, except those below the newest page of the first reading.
    caught_up_at = models.DateTimeField(null=True)
    # Where an incomplete backfill continues, and when it began: `services/mirror/task_runs.py`.
    gap_cursor = models.TextField(blank=True)
    gap_since = models.DateTimeField(null=True)
    gap_searched_at = models.DateTimeField(null=True)  # `searched_at` once the gap is closed
    # When the request began that last showed its newest runs down to known ones. Every run that Arize held before it is
    # in the mirror, except those below the newest page of the first reading. Null: not searched yet.
    searched_at = models.DateTimeField(null=True)
    # The first reading left out older runs, which may be active. Without `caught_up_at`: all its runs are being read.
    active_unread = models.BooleanField(default=False)
    swept_at = models.DateTimeField(null=True)  # when the rolling search last read it
    # When reading its runs last failed, unless the list has worked since.
    runs_failed_at = models.DateTimeField(null=True)
    usual_seconds = models.PositiveIntegerField(null=True)  # usual duration of a run; null: too few runs

    objects = TaskQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "endpoint", "arize_id"], name="one_task_a_team_and_id")]
        indexes = [
            models.Index(fields=["credential", "runs_read_at"], name="task_oldest_read"),
            models.Index(fields=["credential", "searched_at"], name="task_oldest_search"),
        ]

    def __str__(self) -> str:
        return self.name.strip() or self.arize_id

    @property
    def usual_limit(self) -> timedelta | None:
        """A run that takes more time than this is longer than usual. None: too few runs are known."""
        if self.usual_seconds is None:
            return None
        usual = timedelta(seconds=self.usual_seconds)
        return max(usual * TIMES_USUAL, usual + AT_LEAST_OVER)
