"""The one place where a reading of Arize changes mirrored runs."""

import json
import statistics
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.utils import timezone

from taskruns.arize.wire import WireRun
from taskruns.models import ArizeUser, Run, Status, Task, Team
from taskruns.models.runs import ACTIVE

from . import retention

LONGEST_ID = 2_000  # bytes; Arize's own are about 20

# The usual duration of a task's runs is the median of its last completed ones.
ENOUGH = 3  # completed runs; fewer say nothing about the next one
OF_LAST = 20  # completed runs
# How far back to look for them: a task that nearly always fails must not make a reading slow.
LOOKED_THROUGH = 200  # runs
# Servers written in Go send the year 1 for "not yet": what lasted longer than this has no true start.
LONGEST = timedelta(days=365)

log = structlog.get_logger(__name__)

# Members copied as they are; `status` and `created_at` carry more and are read below.
_MEMBERS = (
    "experiment_id",
    "run_started_at",
    "run_finished_at",
    "data_start_time",
    "data_end_time",
    "num_successes",
    "num_errors",
    "num_skipped",
    "created_at",
    "created_by_user_id",
    "failure_reason",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer about one task's runs. `request_started_at`: an answer is as old as its question.

    New runs that are past the time for which runs are kept are left out, unless somebody asked for them.
    """

    task: Task
    runs: Sequence[WireRun]
    request_started_at: datetime
    on_demand: bool = False


def record_observation(run: Run, seen: WireRun, request_started_at: datetime) -> bool:
    """Bring one mirrored run up to what Arize said of it, whatever id the answer carries. True if it changed.

    A reading whose request began earlier never overwrites a later one, so a list read before a cancel cannot undo it.
    """
    with transaction.atomic():
        # The row as it is now, not as it was when `run` was loaded: readings of several workers meet here.
        held = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
        changed = observe(held, seen, request_started_at)
        if changed:
            Team.bump(run.team_id)
    return changed


def observe(held: Run, seen: WireRun, request_started_at: datetime) -> bool:
    """`record_observation` of a row that is locked, in a transaction that observes several and bumps the team after
    them: locks are taken in one order.
    """
    if held.observed_at >= request_started_at:
        return False
    changes = _changes(held, seen)
    Run.objects.filter(pk=held.pk).update(observed_at=request_started_at, **changes)
    if changes and changes.get("status", held.status) == Status.COMPLETED:
        learn_usual(held.task_id)
    return bool(changes)


def record_gone(run: Run, request_started_at: datetime) -> bool:
    """Arize answered 404. A run that was active here is gone, since now, and cannot be cancelled: then True.

    One that had ended stays as it was: Arize may forget it.
    """
    went = observe_gone(run, request_started_at)
    if went:
        Team.bump(run.team_id)
    return went


def observe_gone(run: Run, request_started_at: datetime) -> bool:
    """`record_gone` as a part of a transaction that observes several runs and bumps the team after them."""
    older = Run.objects.filter(pk=run.pk, observed_at__lt=request_started_at)
    was_active = older.filter(status__in=[*ACTIVE, Status.UNKNOWN])
    if was_active.update(status=Status.GONE, rank=0, gone_since=timezone.now(), observed_at=request_started_at):
        return True
    older.update(observed_at=request_started_at)
    return False


def record_readings(readings: Iterable[Reading]) -> int:
    """Write pages of runs into the mirror, one transaction a page. The number of runs that are new or changed."""
    return sum(_record_page(reading) for reading in readings)


@transaction.atomic
def _record_page(reading: Reading) -> int:
    task, started = reading.task, reading.request_started_at
    seen = {wire.id: wire for wire in reading.runs if fits_an_index(wire.id)}
    # In one order, so that two workers on one page cannot lock each other out.
    held = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=seen).order_by("pk")
    known = {run.arize_id: run for run in held.select_for_update(no_key=True)}
    unknown = [wire for id_, wire in sorted(seen.items()) if id_ not in known]
    new = [_new_run(task, wire, started) for wire in unknown if reading.on_demand or not retention.is_past(wire)]
    # A second worker may have been faster: its row stays, and the next reading brings it up to date.
    Run.objects.bulk_create(new, ignore_conflicts=True)
    _note_creators(task, new)
    changed = _update_known([run for run in known.values() if run.observed_at < started], seen, started)
    touched = {run.arize_id for run in new} | changed | _house(task, known.values())
    if any(seen[id_].status.value == Status.COMPLETED for id_ in touched):
        learn_usual(task.pk)
    if touched:
        Team.bump(task.team_id)
    return len(touched)


def _note_creators(task: Task, runs: Iterable[Run]) -> None:
    """Remember the user ids of new runs, so that the mirror reads their names. Sorted, because locks are taken."""
    ids = {run.created_by_user_id for run in runs if fits_an_index(run.created_by_user_id or "")}
    rows = [ArizeUser(team_id=task.team_id, endpoint=task.endpoint, arize_id=id_) for id_ in sorted(filter(None, ids))]
    if rows:
        ArizeUser.objects.bulk_create(rows, ignore_conflicts=True)


def _house(task: Task, runs: Iterable[Run]) -> set[str]:
    """Runs that were met before anything named their task come under it now. Their Arize ids."""
    strangers = {run.pk: run.arize_id for run in runs if run.task_id != task.pk}
    nameless = Run.objects.filter(pk__in=strangers, task__arize_id="")
    moved = list(nameless.values_list("pk", flat=True)) if strangers else []
    Run.objects.filter(pk__in=moved).update(task=task)
    return {strangers[pk] for pk in moved}


def _update_known(runs: list[Run], seen: dict[str, WireRun], started: datetime) -> set[str]:
    """Rows that are locked and older than this reading. The Arize ids of those that changed."""
    changes = {run.pk: _changes(run, seen[run.arize_id]) for run in runs}
    changed = {pk: columns for pk, columns in changes.items() if columns}
    for pk, columns in changed.items():
        Run.objects.filter(pk=pk).update(observed_at=started, **columns)
    # An ended run that stays the same is not worth a write.
    same = [run.pk for run in runs if run.pk not in changed and (run.is_active or run.status == Status.UNKNOWN)]
    Run.objects.filter(pk__in=same).update(observed_at=started)
    return {run.arize_id for run in runs if run.pk in changed}


def fits_an_index(arize_id: str) -> bool:
    """PostgreSQL holds no index entry over 2,704 bytes, team and endpoint included: what is longer is left out."""
    fits = len(arize_id.encode()) <= LONGEST_ID
    if not fits:
        log.warning("arize_id_too_long", begins=arize_id[:40], characters=len(arize_id))
    return fits


def _new_run(task: Task, seen: WireRun, started: datetime) -> Run:
    run = Run(team_id=task.team_id, task=task, endpoint=task.endpoint, arize_id=seen.id, observed_at=started)
    for name, value in {"status": Status.UNKNOWN, "sorted_at": timezone.now(), **_read(seen)}.items():
        setattr(run, name, value)
    run.duration_us = duration_us(run.run_started_at, run.run_finished_at)
    return run


def learn_usual(task_id: uuid.UUID) -> None:
    """Bring `usual_seconds` of the task up to date: pages show it in each row without computing it."""
    ended = Run.objects.filter(task=task_id, rank=0).order_by("-sorted_at", "-pk")
    rows = ended.values_list("status", "run_started_at", "run_finished_at")[:LOOKED_THROUGH]
    spans = [
        finished - started for status, started, finished in rows if status == Status.COMPLETED and started and finished
    ]
    seconds = [span.total_seconds() for span in spans if timedelta(0) <= span <= LONGEST][:OF_LAST]
    usual = round(statistics.median(seconds)) if len(seconds) >= ENOUGH else None
    Task.objects.filter(pk=task_id).exclude(usual_seconds=usual).update(usual_seconds=usual)


def duration_us(begin: datetime | None, end: datetime | None) -> int:
    """What a run took, in microseconds; 0 for one that has not both begun and ended."""
    return max(0, (end - begin) // timedelta(microseconds=1)) if begin and end else 0


def _changes(run: Run, seen: WireRun) -> dict[str, Any]:
    """The columns that this reading changes. What Arize left out of the answer stays as it was."""
    read = _read(seen)
    begin, end = (read.get(name, getattr(run, name)) for name in ("run_started_at", "run_finished_at"))
    read["duration_us"] = duration_us(begin, end)
    changes = {name: value for name, value in read.items() if getattr(run, name) != value}
    # The JSON alone may differ by a member that nobody shows: not worth a write, unless something else changed.
    return {} if set(changes) <= {"as_read"} else changes


def _read(seen: WireRun) -> dict[str, Any]:
    read = {name: getattr(seen, name) for name in _MEMBERS if name in seen.raw}
    if not fits_an_index(read.get("experiment_id") or ""):
        read["experiment_id"] = None  # the JSON still holds it
    read["as_read"] = json.dumps(seen.raw)
    if seen.created_at is not None:
        read["sorted_at"] = seen.created_at
    if "status" in seen.raw:
        read |= {
            "status": Status(seen.status.value),
            "raw_status": seen.raw_status or "",
            "rank": int(seen.status.is_active),
            "gone_since": None,
        }
    elif not seen.raw.keys() - {"id"}:
        read.pop("as_read")
    return read
