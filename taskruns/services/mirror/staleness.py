"""What in the mirror is out of date, and why: tasks whose runs cannot be read, and active runs with an old state.

Open boards reload only when the team's `board_version` changes, so a change of staleness must bump it.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from django.db.models import DateTimeField, Exists, F, OuterRef, Q, QuerySet, Subquery, UUIDField, Value
from django.utils import timezone

from taskruns.arize.errors import ArizeError, RateLimited, Unauthorized
from taskruns.models import Credential, Run, Task, Team
from taskruns.models.prepared import Prepared, Slot, TimeSlot
from taskruns.models.stamps import SKEW, recent
from taskruns.models.tasks import STILL_LISTED
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


@dataclass(frozen=True, slots=True)
class Ages:
    """How old the board of some teams is, as far as keys that work read it.

    `statuses_at`: the oldest reading among active runs; None if there are none. `searched_at`: a run that Arize held
    before it is on the board; None while a key or a task was not read yet, and without keys. `versions`: the
    `board_version` of each team with such keys, of the same moment: an older board may lack a run that the ages claim.
    """

    statuses_at: datetime | None
    searched_at: datetime | None
    versions: Mapping[uuid.UUID, int] = field(default_factory=dict, compare=False)


def board_ages(team_ids: Sequence[uuid.UUID]) -> Ages:
    """One query, whose cost does not grow with the number of tasks."""
    return ages_of(_found(_usable_keys, team_ids))


def keys_with_ages(team_ids: Sequence[uuid.UUID]) -> list[Credential]:
    """The live keys of these teams by name, with what `ages_of` needs and without their secrets."""
    return _found(_live_keys, team_ids)


Keys = Callable[[Q, datetime | Value], QuerySet[Credential]]


def _found(keys: Keys, team_ids: Sequence[uuid.UUID]) -> list[Credential]:
    until = timezone.now() + SKEW
    if len(team_ids) == 1:
        return _of_one_team(keys).rows(team=team_ids[0], until=until)
    return list(keys(Q(team__in=team_ids), until))


@cache
def _of_one_team(keys: Keys) -> Prepared[Credential]:
    """Each page and each poll of a team's board needs it."""
    return Prepared(keys(Q(team=Slot("team", UUIDField())), Slot("until", DateTimeField())))


def _usable_keys(of_teams: Q, until: datetime | Value) -> QuerySet[Credential]:
    keys = Credential.objects.usable().filter(of_teams)
    return with_ages(keys, until).only("team", "failing_since", "tasks_listed_from")


def _live_keys(of_teams: Q, until: datetime | Value) -> QuerySet[Credential]:
    return with_ages(Credential.objects.live().filter(of_teams).defer("ciphertext"), until).order_by("name")


def with_ages(keys: QuerySet[Credential], until: datetime | Value) -> QuerySet[Credential]:
    """Annotate what `ages_of` needs. `until`: stamps after it come from a clock that was ahead."""
    # The key of each run by a subquery: with a join, PostgreSQL may scan all tasks of the key for each run.
    key_of_task = Task.objects.filter(pk=OuterRef("task")).values("credential")
    active = Run.objects.filter(team=OuterRef("team"), rank=1).alias(key=Subquery(key_of_task))
    active = active.filter(key=OuterRef("pk"))
    listed = Task.objects.filter(STILL_LISTED, credential=OuterRef("pk")).exclude(arize_id="")
    searched = listed.filter(searched_at__isnull=False).order_by("searched_at").values("searched_at")
    # A stamp of a clock that was ahead, and was set back, proves nothing.
    unsearched = Q(searched_at=None) | Q(searched_at__gt=until)
    read_with: dict[str, Any] = {
        "board_version": F("team__board_version"),
        "oldest_status": Subquery(active.order_by("observed_at").values("observed_at")[:1]),
        "has_unsearched": Exists(listed.filter(unsearched)),
        "oldest_search": Subquery(searched[:1]),
    }
    return keys.annotate(**read_with)


def ages_of(keys: Iterable[Credential]) -> Ages:
    """The ages that these keys, read `with_ages`, guarantee. Rejected keys do not count."""
    working = [key for key in keys if key.failing_since is None]
    statuses = [key.oldest_status for key in working if key.oldest_status is not None]
    return Ages(
        statuses_at=_past(min(statuses, default=None)),
        searched_at=_searched_at(working),
        versions={key.team_id: key.board_version for key in working},
    )


def _searched_at(keys: Sequence[Credential]) -> datetime | None:
    if not keys or any(_past(key.tasks_listed_from) is None or key.has_unsearched for key in keys):
        return None
    return min(at for key in keys for at in (key.tasks_listed_from, key.oldest_search) if at is not None)


def _past(at: datetime | None) -> datetime | None:
    return at if at is not None and at <= timezone.now() + SKEW else None


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


def failed_lately(now: datetime | TimeSlot) -> Q:
    """Tasks that failed a moment ago and are not read again yet."""
    return recent("runs_failed_at", now, FAILED_WAITS)


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
    runs = _active().rows(credential=credential_id)
    return {run.pk: why for run in runs if (why := why_old(run, now)) is not None}


@cache
def _active() -> Prepared[Run]:
    runs = Run.objects.filter(rank=1, task__credential=Slot("credential", UUIDField()))
    return Prepared(runs.select_related("task__credential").only(*_COLUMNS))


def _of_key(key: Credential, now: datetime) -> Staleness | None:
    state = state_of(key, now)
    if state is KeyState.FAILING:
        return Staleness(Why.KEY_FAILING, key.name, key.failing_reason)
    if state is KeyState.WAITING:
        return Staleness(Why.KEY_WAITING, key.name, key.backoff_reason)
    return None
