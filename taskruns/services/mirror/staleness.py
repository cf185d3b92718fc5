"""What of the mirror is old, and why: tasks whose runs cannot be read, active runs whose state is not of this moment.

Open boards ask again only when they are told that this changed.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import Q
from django.utils import timezone

from taskruns.arize.errors import ArizeError, RateLimited, Unauthorized
from taskruns.models import Credential, Run, Task, Team
from taskruns.services.credentials import KeyState, state_of

# A task whose list fails is one among many: it must not cost calls in every round.
FAILED_WAITS = timedelta(seconds=30)
# A row read so long before the newest reading has fallen behind.
BEHIND = timedelta(minutes=2)
# What reasons are made of.
_COLUMNS = (
    *("status", "observed_at", "task__runs_failed_at"),
    *(f"task__credential__{name}" for name in ("name", "revoked_at", "failing_since", "failing_reason")),
    *(f"task__credential__{name}" for name in ("backoff_until", "backoff_reason", "last_good_at")),
)


class Why(StrEnum):
    NO_KEY = "no_key"
    KEY_FAILING = "key_failing"
    KEY_WAITING = "key_waiting"
    TASK_FAILED = "task_failed"
    FELL_BEHIND = "fell_behind"


@dataclass(frozen=True, slots=True)
class Staleness:
    """Why the state of an active run is not of this moment; `key` and `reason` say more where a key is the cause."""

    why: Why
    key: str = ""
    reason: str = ""


def note_fault(task: Task, answer: object) -> None:
    """That reading the runs of a task failed, or works again.

    A rejected key and a throttled one are told of the key.
    """
    if isinstance(answer, Unauthorized | RateLimited):
        return
    failed = isinstance(answer, ArizeError)
    if not failed and task.runs_failed_at is None:
        return
    is_news = failed == (task.runs_failed_at is None)
    task.runs_failed_at = timezone.now() if failed else None
    Task.objects.filter(pk=task.pk).update(runs_failed_at=task.runs_failed_at)
    if is_news:
        Team.bump(task.team_id)


def failed_lately() -> Q:
    """Of tasks: those to be left alone."""
    return Q(runs_failed_at__gt=timezone.now() - FAILED_WAITS)


def why_old(run: Run, now: datetime) -> Staleness | None:
    """None: the state of the run is of this moment, as far as anyone knows. Expects task and key to be loaded."""
    if not run.is_active:
        return None
    key, failed_at = run.task.credential, run.task.runs_failed_at
    if key is None or not is_read(run):
        return Staleness(Why.NO_KEY)
    if (of_key := _of_key(key, now)) is not None:
        return of_key
    if failed_at is not None and run.observed_at < failed_at:
        return Staleness(Why.TASK_FAILED)
    if key.last_good_at is not None and run.observed_at < key.last_good_at - BEHIND:
        return Staleness(Why.FELL_BEHIND)
    return None


def is_read(run: Run) -> bool:
    """Whether a live key reads the run's task."""
    key = run.task.credential
    return key is not None and key.revoked_at is None


def reasons(credential_id: uuid.UUID) -> dict[uuid.UUID, Staleness]:
    """By run, for those active runs of the key whose state is not of this moment."""
    now = timezone.now()
    runs = Run.objects.filter(rank=1, task__credential=credential_id).select_related("task__credential")
    return {run.pk: why for run in runs.only(*_COLUMNS) if (why := why_old(run, now)) is not None}


def _of_key(key: Credential, now: datetime) -> Staleness | None:
    state = state_of(key, now)
    if state is KeyState.FAILING:
        return Staleness(Why.KEY_FAILING, key.name, key.failing_reason)
    if state is KeyState.WAITING:
        return Staleness(Why.KEY_WAITING, key.name, key.backoff_reason)
    return None
