"""Runs as rows: with the cancellation that tells how each ended, and with why a row may be old."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from taskruns.display.credentials import expiry_warning, health
from taskruns.display.runs import RunRow, run_row
from taskruns.display.words import Message
from taskruns.models import Cancellation, Credential, Heartbeat, Outcome, Run, Status, Team
from taskruns.permissions import Access, Action
from taskruns.services.runs import arize_users

# Which press ended a cancelled run: one that Arize confirmed, one that it accepted, one of which nobody heard the end.
_CREDIT = {Outcome.CONFIRMED: 4, Outcome.OPEN: 3, Outcome.STILL_RUNNING: 2, Outcome.UNKNOWN: 1}
# A row read so long before the newest reading has fallen behind.
BEHIND = timedelta(minutes=2)
# A key without anybody's attention is read each 5 min; when its last reading is older, nothing reads.
LATE = timedelta(minutes=6)


@dataclass(frozen=True, slots=True)
class Seat:
    """A team, and what the person who looks may do there."""

    team: Team
    access: Access


def run_rows(runs: Sequence[Run], *, seats: Iterable[Seat], name_team: bool = False) -> tuple[RunRow, ...]:
    """Expects tasks and keys to be loaded, and the runs' creators."""
    by_team = {seat.team.pk: seat for seat in seats}
    latest = latest_cancellations(runs)
    now = timezone.now()
    return tuple(
        run_row(
            run,
            last=latest.get(run.pk),
            may_cancel=(seat := by_team[run.team_id]).access.may(Action.RUNS_CANCEL),
            slug=seat.team.slug,
            team=seat.team.name if name_team else "",
            why_old=why_old(run, now),
            creator=run.creator,
        )
        for run in runs
    )


def row_of(run_id: uuid.UUID, *, seat: Seat) -> RunRow:
    """One fresh row, as after a cancel."""
    run = arize_users.with_creators(Run.objects.select_related("task__credential")).get(pk=run_id)
    return run_rows([run], seats=[seat])[0]


def latest_cancellations(runs: Iterable[Run]) -> dict[uuid.UUID, Cancellation]:
    """By run: the latest, but of a cancelled run the one that most likely ended it. A press that was refused or came
    too late did not.
    """
    ended = {run.pk: run.status == Status.CANCELLED for run in runs}
    rows = Cancellation.objects.filter(run__in=ended).select_related("batch").order_by("requested_at")
    in_order = sorted(rows, key=lambda row: _CREDIT.get(Outcome(row.outcome), 0) if ended[row.run_id] else 0)
    return {row.run_id: row for row in in_order}


def warnings_of(keys: Iterable[Credential]) -> tuple[Message, ...]:
    """Why something may be old, or soon will be."""
    now = timezone.now()
    warnings = []
    for key in keys:
        state, text = health(key, now)
        if state in {"failing", "waiting"}:
            warnings.append(Message("error" if state == "failing" else "warning", f"Key “{key.name}”: {text}"))
        ending = expiry_warning(key, timezone.localdate(now))
        if ending is not None and state != "failing":
            warnings.append(ending)
    return tuple(warnings)


def is_late(seats: Iterable[Seat]) -> bool:
    """Whether a team has not been read for longer than any pace explains. No query: for each poll."""
    since = timezone.now() - LATE
    return any(seat.team.as_of is not None and seat.team.as_of < since for seat in seats)


def late(seats: Iterable[Seat], keys: Iterable[Credential]) -> tuple[Message, ...]:
    """A warning when nothing reads Arize, though no key says why. No age: the page's own clock tells it."""
    now = timezone.now()
    unexplained = {key.team_id for key in keys if health(key, now)[0] == "working"}
    if not is_late(seat for seat in seats if seat.team.pk in unexplained):
        return ()
    if Heartbeat.objects.filter(seen_at__gte=now - LATE).exists():
        return (Message("warning", "Reading from Arize takes unusually long: what is shown may be old."),)
    return (Message("error", "Nothing reads Arize: the panel's worker does not run. What is shown is old."),)


def unread(runs: Iterable[Run]) -> tuple[Message, ...]:
    """A warning when some of these runs belong to tasks that no live key reads: what they show stays as it is."""
    number = len({run.task_id for run in runs if not _has_key(run)})
    if not number:
        return ()
    tasks = "one task" if number == 1 else f"{number} tasks"
    text = f"No key reads the runs of {tasks} any more: they are shown as they were last read. Add or replace a key."
    return (Message("warning", text),)


def _has_key(run: Run) -> bool:
    key = run.task.credential
    return key is not None and key.revoked_at is None


def why_old(run: Run, now: datetime) -> str:
    """Why the state of an active run is not of this moment; empty: it is, as far as anyone knows."""
    if not run.is_active:
        return ""
    key, failed_at = run.task.credential, run.task.runs_failed_at
    if key is None or not _has_key(run):
        return "no key reads this task any more"
    state, text = health(key, now)
    if state in {"failing", "waiting"}:
        return f"key “{key.name}”: {text}"
    if failed_at is not None and run.observed_at < failed_at:
        return "Arize did not answer when it was read again"
    if key.last_good_at is not None and run.observed_at < key.last_good_at - BEHIND:
        return "other runs had to be read first"
    return ""
