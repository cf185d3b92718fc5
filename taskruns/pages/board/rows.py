"""Runs as rows of the board: with the cancellation that counts for each, and why a row may be out of date."""

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery, TextField, Value
from django.db.models.functions import Coalesce, NullIf
from django.urls import reverse
from django.utils import timezone

from taskruns.models import CANCEL_FACTS, ArizeUser, Cancellation, Outcome, Run, Status
from taskruns.pages.cancellations import cause_of, is_alarming, last_note
from taskruns.pages.values import (
    Counts,
    Duration,
    Message,
    Moment,
    Pace,
    StatusMark,
    counts_of,
    duration_of,
    pace_of,
    status_mark,
)
from taskruns.permissions import Action, TeamAccess
from taskruns.services.mirror.staleness import Why, is_read, why_old

_OLD = {
    Why.NO_KEY: "no API key reads this task any more",
    Why.TASK_FAILED: "Arize did not answer the last read",
    Why.FELL_BEHIND: "other runs had to be read first",
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """One row of the board. `version`: 16 hex digits of a hash that changes exactly when the row does.

    `creator`: the name of the person who triggered the run; empty if only the `creator_id` is known.
    """

    id: str
    arize_id: str
    url: str
    task: str
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
    stopping: str
    note: str
    pace: Pace
    alarm: bool = False  # still active although Arize reported otherwise
    can_pick: bool = False
    team: str = ""
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
) -> RunRow:
    """`last`: the cancellation that counts. `why_old`: why the state is out of date; empty if it is not.
    `creator`: the name of the person who triggered the run, if known.

    Expects `run.task.credential` to be loaded.
    """
    is_open = last is not None and last.outcome == Outcome.OPEN
    can_cancel = may_cancel and run.is_active and not is_open
    row = RunRow(
        id=str(run.pk),
        arize_id=run.arize_id,
        url=_url("run", slug, run.pk),
        task=run.label,
        task_filter=run.task.arize_id,
        type=run.task.type.replace("_", " "),
        space=run.task.space_name,
        credential=run.task.credential.name if run.task.credential else "",
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
        stopping=f"stopping, requested by {last.person_label}" if is_open and last and run.is_active else "",
        note=last_note(run, last),
        alarm=is_alarming(run, last),
        can_pick=can_cancel and not team,
        team=team,
        read=Moment.of(run.observed_at) if why_old else None,
        why_old=why_old,
        pace=pace_of(run),
    )
    return _with_version(row)


# `reverse` is slow, and a board needs the same URLs on every poll.
@lru_cache(maxsize=8_192)
def _url(name: str, slug: str, run_id: uuid.UUID) -> str:
    return reverse(name, args=[slug, run_id])


def _with_version(row: RunRow) -> RunRow:
    return replace(row, version=hashlib.blake2b(repr(row).encode(), digest_size=8).hexdigest())


def run_rows(runs: Sequence[Run], *, accesses: Iterable[TeamAccess], name_team: bool = False) -> tuple[RunRow, ...]:
    """Expects tasks, keys and creators to be loaded."""
    by_team = {it.team.pk: it for it in accesses}
    latest = latest_cancellations(runs)
    now = timezone.now()
    return tuple(
        run_row(
            run,
            last=latest.get(run.pk),
            may_cancel=(team_access := by_team[run.team_id]).access.may(Action.RUNS_CANCEL),
            slug=team_access.team.slug,
            team=team_access.team.name if name_team else "",
            why_old=old_text(run, now),
            creator=run.creator,
        )
        for run in runs
    )


def old_text(run: Run, now: datetime) -> str:
    """Why the state of an active run is out of date; empty if it is not, as far as known."""
    old = why_old(run, now)
    if old is None:
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
    rows = Cancellation.objects.filter(run__in=statuses).select_related("batch").order_by("requested_at")

    def credit(row: Cancellation) -> int:
        return CANCEL_FACTS[Outcome(row.outcome)].credit if statuses[row.run_id] == Status.CANCELLED else 0

    return {row.run_id: row for row in sorted(rows, key=credit)}
