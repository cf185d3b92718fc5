"""What in the mirror is out of date, and why: tasks whose runs cannot be read, and active runs with an old state.

Open boards reload only when the team's `board_version` changes, so a change of staleness must bump it.
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

# A task whose run list fails must not cost a call in every round.
FAILED_WAITS = timedelta(seconds=30)
# A run that was last read this much earlier than the newest reading has fallen behind.
BEHIND = timedelta(minutes=2)
# The columns that `why_old` reads.
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
    """Why the state of an active run is out of date. `key` and `reason` are set if a key is the cause."""

    why: Why
    key: str = ""
    reason: str = ""


def note_answer(task: Task, answer: object, *, at: datetime | None = None) -> None:
    """Note that reading the task's runs failed or recovered. 401 and 429 are recorded on the credential instead.

    `at`: runs that were read since then are up to date all the same; without it, none are.
    """
    if isinstance(answer, Unauthorized | RateLimited):
        return
    failed = isinstance(answer, ArizeError)
    if not failed and task.runs_failed_at is None:
        return
    has_changed = failed == (task.runs_failed_at is None)
    task.runs_failed_at = (at or timezone.now()) if failed else None
    Task.objects.filter(pk=task.pk).update(runs_failed_at=task.runs_failed_at)
    if has_changed:
        Team.bump(task.team_id)


def failed_lately() -> Q:
    """Tasks that failed a moment ago and are not read again yet."""
    return Q(runs_failed_at__gt=timezone.now() - FAILED_WAITS)


def why_old(run: Run, now: datetime) -> Staleness | None:
    """None if the state of the run is up to date. Expects the task and its key to be loaded."""
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
    """The active runs of the key whose state is out of date, each with the reason."""
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
