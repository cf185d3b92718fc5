"""Runs as rows of the board: with the cancellation that counts for each, and why a row may be out of date."""

import hashlib
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from functools import cache, lru_cache
from typing import Any

from django.conf import settings
from django.db.models import Count, OuterRef, QuerySet, Subquery, TextField, UUIDField, Value
from django.db.models.functions import Coalesce, NullIf
from django.urls import reverse
from django.utils import timezone

from taskruns.models import CANCEL_FACTS, ArizeUser, Cancellation, Credential, Outcome, Run, Status, Task
from taskruns.models.prepared import PreparedShared, Slot
from taskruns.pages.cancellations import cause_of, is_alarming, last_note
from taskruns.pages.values import (
    ID_END,
    Counts,
    Duration,
    Message,
    Moment,
    Pace,
    StatusMark,
    counts_of,
    duration_of,
    pace_of,
    short_id,
    speed_of,
    status_mark,
    who_of,
)
from taskruns.permissions import Action, TeamAccess
from taskruns.services.mirror.staleness import Why, is_read, why_old

# Rows of a page of the board.
PAGE = 50
# Runs and rows that a process keeps to show them again: those of 20 pages.
KEPT = 20 * PAGE
# What a row reads. A column that is missing here would be one more query for each row.
_SHOWN = (
    *("team", "arize_id", "status", "raw_status", "run_started_at", "run_finished_at", "num_successes", "num_errors"),
    *("num_skipped", "created_at", "created_by_user_id", "failure_reason", "observed_at", "longer_than_usual"),
    *("progress_changed_at", "task__name", "task__arize_id", "task__type", "task__space_name", "task__usual_seconds"),
    *("task__runs_failed_at", "task__credential__name", "task__credential__revoked_at"),
    *(f"task__credential__{name}" for name in ("failing_since", "failing_reason", "backoff_until", "backoff_reason")),
    "task__credential__last_good_at",
)
# Runs that a bulk start can start again, so they can be selected too.
STARTED_AGAIN = (Status.FAILED, Status.CANCELLED)
_OLD = {
    Why.NO_KEY: "no API key reads this task any more",
    Why.TASK_FAILED: "Arize did not answer the last read",
    Why.FELL_BEHIND: "other runs had to be read first",
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """One row of the board. `version`: 16 hex digits of a hash that changes exactly when the row does.

    `creator`: the name of the person who triggered the run; empty if only the `creator_id` is known. `namesake`: the
    end of the task's id, if other tasks of the team have its name. `credential`: only where the team has several keys.
    `speed`: items a minute, of an active run.
    """

    id: str
    arize_id: str
    short_id: str
    url: str
    task: str
    namesake: str
    task_filter: str
    type: str
    space: str
    credential: str
    status: StatusMark
    counts: Counts
    created: Moment | None
    creator: str
    creator_id: str
    started: Moment | None
    finished: Moment | None
    duration: Duration | None
    cause: str
    cancel_url: str
    notice_url: str
    stopping: str
    note: str
    pace: Pace
    speed: str = ""
    sending: bool = False  # the cancel was not sent yet
    alarm: bool = False  # still active although Arize reported otherwise
    can_pick: bool = False
    team: str = ""
    slug: str = ""  # of the team; set with `team`
    read: Moment | None = None
    why_old: str = ""
    version: str = ""


def run_row(
    run: Run,
    *,
    last: Cancellation | None,
    may_cancel: bool,
    slug: str,
    team: str = "",
    why_old: str = "",
    creator: str = "",
    has_namesakes: bool = False,
    has_other_keys: bool = False,
    may_start: bool = False,
) -> RunRow:
    """`last`: the cancellation that counts. `why_old`: why the state is out of date; empty if it is not.
    `creator`: the name of the person who triggered the run, if known. `has_namesakes`: the team has other tasks of the
    same name. `has_other_keys`: the team has more than one key.

    Expects `run.task.credential` to be loaded.
    """
    is_open = last is not None and last.outcome == Outcome.OPEN
    can_cancel = may_cancel and run.is_active and not is_open
    row = RunRow(
        id=str(run.pk),
        arize_id=run.arize_id,
        short_id=short_id(run.arize_id),
        url=_url("run", slug, run.pk),
        task=run.label,
        namesake=f"…{run.task.arize_id[-ID_END:]}" if has_namesakes else "",
        task_filter=run.task.arize_id,
        type=run.task.type.replace("_", " "),
        space=run.task.space_name,
        credential=run.task.credential.name if run.task.credential and has_other_keys else "",
        status=status_mark(run),
        counts=counts_of(run),
        created=Moment.of(run.created_at),
        creator=creator,
        creator_id=run.created_by_user_id or "",
        started=Moment.of(run.run_started_at),
        finished=Moment.of(run.run_finished_at),
        duration=duration_of(run),
        cause=cause_of(run, last),
        cancel_url=_url("run-cancel", slug, run.pk) if can_cancel else "",
        notice_url=_url("run-notice", slug, run.pk) if run.is_active and settings.MAILS else "",
        stopping=f"{_progress(last)}, requested by {who_of(last)}" if is_open and last and run.is_active else "",
        note=last_note(run, last),
        sending=is_open and last is not None and last.posted_at is None,
        alarm=is_alarming(run, last),
        can_pick=can_cancel or (may_start and run.status in STARTED_AGAIN),
        team=team,
        slug=slug if team else "",
        read=Moment.of(run.observed_at) if why_old else None,
        why_old=why_old,
        pace=pace_of(run),
        speed=speed_of(run),
    )
    return _with_version(row)


# `reverse` is slow, and a board needs the same URLs on every poll.
@lru_cache(maxsize=8_192)
def _url(name: str, slug: str, run_id: uuid.UUID) -> str:
    return reverse(name, args=[slug, run_id])


def _progress(last: Cancellation) -> str:
    return "stopping" if last.posted_at is not None else "cancel being sent"


def _with_version(row: RunRow) -> RunRow:
    return replace(row, version=hashlib.blake2b(repr(row).encode(), digest_size=8).hexdigest())


@dataclass(frozen=True, slots=True)
class Likenesses:
    """What has to be told apart. `namesakes`: the names that several tasks of a team have, each with the team.
    `several_keys`: the teams with more than one live key.
    """

    namesakes: Collection[tuple[uuid.UUID, str]]
    several_keys: Collection[uuid.UUID]


def run_rows(
    runs: Sequence[Run],
    *,
    accesses: Iterable[TeamAccess],
    name_team: bool = False,
    likenesses: Likenesses | None = None,
    are_shared: bool = False,
) -> tuple[RunRow, ...]:
    """Expects tasks, keys and creators to be loaded. `likenesses`: if the caller knows them. `are_shared`: the runs are
    those of `load_runs`, so their rows are kept.
    """
    by_team = {it.team.pk: it for it in accesses}
    # A row of a run that ended otherwise says nothing about a cancel.
    latest = latest_cancellations(run for run in runs if run.is_active or run.status == Status.CANCELLED)
    alike = likenesses or Likenesses(_namesakes(runs), _with_several_keys(by_team))
    now = timezone.now()
    make = _kept_row if are_shared else run_row
    return tuple(
        make(
            run,
            last=latest.get(run.pk),
            may_cancel=(team_access := by_team[run.team_id]).access.may(Action.RUNS_CANCEL),
            slug=team_access.team.slug,
            team=team_access.team.name if name_team else "",
            why_old=old_text(run, now),
            creator=run.creator,
            may_start=team_access.access.may(Action.RUNS_TRIGGER),
            has_namesakes=(run.team_id, run.task.name) in alike.namesakes,
            has_other_keys=run.team_id in alike.several_keys,
        )
        for run in runs
    )


class _Same:
    """A cache key: this very object, which nobody changes."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it


def _kept_row(run: Run, *, last: Cancellation | None, **shown_with: Any) -> RunRow:
    return _row(_Same(run), _Same(last), timezone.get_current_timezone(), **shown_with)


@lru_cache(maxsize=KEPT)
def _row(run: _Same, last: _Same, _zone: tzinfo, **shown_with: Any) -> RunRow:
    return run_row(run.it, last=last.it, **shown_with)  # type: ignore[arg-type] # as `_kept_row` has put them in


def _namesakes(runs: Iterable[Run]) -> set[tuple[uuid.UUID, str]]:
    """The names that several tasks of a team have, each with the team: rows of these tasks are told apart."""
    names = {run.task.name for run in runs if run.task.name}
    if not names:
        return set()
    tasks = Task.objects.filter(team__in={run.team_id for run in runs}, name__in=names).exclude(arize_id="").order_by()
    counted = tasks.values_list("team", "name").annotate(tasks=Count("pk")).filter(tasks__gt=1)
    return {(team, name) for team, name, _ in counted}


def _with_several_keys(team_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """The teams with more than one live key: only there a row names its key."""
    keys = Credential.objects.live().filter(team__in=team_ids).order_by()
    return set(keys.values_list("team").annotate(keys=Count("pk")).filter(keys__gt=1).values_list("team", flat=True))


def old_text(run: Run, now: datetime) -> str:
    """Why the state of an active run is out of date; empty if it is not, as far as known, or if its key only waits
    after a failure: the page says that once, not in each row.
    """
    old = why_old(run, now)
    if old is None or old.why is Why.KEY_WAITING:
        return ""
    if old.key:
        return f"key “{old.key}”: {old.reason}"
    return _OLD[old.why]


def unread(runs: Iterable[Run]) -> tuple[Message, ...]:
    """A warning if some of these runs belong to tasks that no live key reads: their state no longer changes."""
    number = len({run.task_id for run in runs if not is_read(run)})
    if not number:
        return ()
    tasks = "one task" if number == 1 else f"{number} tasks"
    text = f"No API key reads the runs of {tasks} any more. Their last known state is shown. Add or replace a key."
    return (Message("warning", text),)


def row_of(run_id: uuid.UUID, *, team_access: TeamAccess) -> RunRow:
    """One row, read anew, for example after a cancel."""
    run = with_creators(Run.objects.select_related("task__credential")).get(pk=run_id)
    return run_rows([run], accesses=[team_access])[0]


def load_runs(ids: Sequence[uuid.UUID]) -> tuple[Run, ...]:
    """The runs of a page in this order, with all that their rows show. A run that was deleted since is left out. They
    are shared: nobody may change them.
    """
    found = {run.pk: run for run in _shown().rows(**_id_values(ids))} if ids else {}
    return tuple(found[pk] for pk in ids if pk in found)


@cache
def _shown() -> PreparedShared[Run]:
    runs = Run.objects.filter(pk__in=_id_slots()).select_related("task__credential").only(*_SHOWN)
    return PreparedShared(with_creators(runs), most=KEPT)


def _id_slots() -> list[Any]:
    """`IN` of a fixed length, so that its query can be prepared."""
    return [Slot(f"id_{number}", UUIDField()) for number in range(PAGE)]


def _id_values(ids: Sequence[uuid.UUID]) -> dict[str, Any]:
    """At most PAGE ids. If there are fewer, the last is repeated."""
    return {f"id_{number}": ids[min(number, len(ids) - 1)] for number in range(PAGE)}


def with_creators(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Annotate each run with `creator`: the name of the person who triggered it, empty if unknown."""
    same = {"team": OuterRef("team"), "endpoint": OuterRef("endpoint"), "arize_id": OuterRef("created_by_user_id")}
    named = ArizeUser.objects.filter(known=True, **same)
    called = Coalesce(NullIf("name", Value("")), "email", output_field=TextField())
    read_with: dict[str, Any] = {
        "creator": Coalesce(Subquery(named.values(called=called)[:1]), Value(""), output_field=TextField())
    }
    return runs.annotate(**read_with)


def latest_cancellations(runs: Iterable[Run]) -> dict[uuid.UUID, Cancellation]:
    return credited_cancellations({run.pk: run.status for run in runs})


def credited_cancellations(statuses: Mapping[uuid.UUID, str]) -> dict[uuid.UUID, Cancellation]:
    """Run id -> its latest cancellation, or for a cancelled run the one that most likely ended it."""
    if not statuses:
        return {}
    is_page = len(statuses) <= PAGE
    rows = _of_page().rows(**_id_values(list(statuses))) if is_page else list(_by_time(list(statuses)))

    def credit(row: Cancellation) -> int:
        return CANCEL_FACTS[Outcome(row.outcome)].credit if statuses[row.run_id] == Status.CANCELLED else 0

    return {row.run_id: row for row in sorted(rows, key=credit)}


@cache
def _of_page() -> PreparedShared[Cancellation]:
    return PreparedShared(_by_time(_id_slots()), most=KEPT)


def _by_time(run_ids: Sequence[Any]) -> QuerySet[Cancellation]:
    """The cancellations of these runs, oldest first."""
    return Cancellation.objects.filter(run__pk__in=run_ids).select_related("batch", "person").order_by("requested_at")
