"""Writes what Arize says about runs into the mirror. Nothing else changes mirrored runs, except their facts that the
clock changes (`facts`).
"""

import json
import statistics
import uuid
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from taskruns.arize.wire import WireRun
from taskruns.models import ArizeUser, Run, RunSearch, Status, Task, Team
from taskruns.models.run_search import SOURCES
from taskruns.models.runs import ACTIVE, Attention, share_of, true_time
from taskruns.models.stamps import SKEW

from . import retention
from .ends import End, is_news, note_ends
from .facts import is_cancel_open

LONGEST_ID = 2_000  # bytes; Arize's own ids have about 20

# The usual duration of a task's runs is the median of its last completed runs.
FEWEST_COMPLETED = 5  # completed runs; fewer say nothing about the next one
LAST_COMPLETED = 20  # completed runs
# How many runs are scanned for them, so that a task that nearly always fails does not slow down a reading.
SCANNED = 200
# Servers written in Go send the year 1 for "not yet". A longer duration than this has no true start.
LONGEST = timedelta(days=365)

log = structlog.get_logger(__name__)

# Members that are copied unchanged. `_read` derives more columns from `status` and `created_at`.
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
_ITEMS = ("num_successes", "num_errors", "num_skipped")
_TIMES = {"status", "run_started_at", "run_finished_at"}
_ENDING = {"status", "num_errors"}


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer about the runs of one task, dated by the start of its request.

    New runs older than the retention period are skipped, unless a person asked for them (`on_demand`).
    """

    task: Task
    runs: Sequence[WireRun]
    request_started_at: datetime
    on_demand: bool = False


def record_observation(run: Run, seen: WireRun, request_started_at: datetime) -> bool:
    """Update one mirrored run from Arize's answer, whatever id the answer carries. True if the run changed.

    A reading whose request began earlier never overwrites a later one. So a list read before a cancel cannot undo it.
    """
    with transaction.atomic():
        # Load the row again: other workers may have written a reading since `run` was loaded.
        held = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
        changed = observe(held, seen, request_started_at)
        if changed:
            Team.bump(run.team_id)
    return changed


def observe(held: Run, seen: WireRun, request_started_at: datetime) -> bool:
    """Like `record_observation`, for a locked row. The caller's transaction bumps the team after all its runs, because
    locks are taken in one order.
    """
    if not _is_older(held, request_started_at):
        return False
    changes = _changes(held, seen, request_started_at)
    Run.objects.filter(pk=held.pk).update(observed_at=request_started_at, **changes)
    _update_texts({held: changes})
    note_ends(held.team_id, _ends({held: changes}))
    if changes and changes.get("status", held.status) == Status.COMPLETED:
        learn_usual(held.task_id)
    return bool(changes)


def _is_older(held: Run, request_started_at: datetime) -> bool:
    """Whether the stored reading began earlier. One in the future comes from a wrong clock, and must not last."""
    return held.observed_at < request_started_at or held.observed_at > timezone.now() + SKEW


def record_gone(run: Run, request_started_at: datetime) -> bool:
    """Arize answered 404. True if the run was active here: it is now `gone` and cannot be cancelled.

    A run that has ended stays unchanged, because Arize may delete it.
    """
    is_gone = observe_gone(run, request_started_at)
    if is_gone:
        Team.bump(run.team_id)
    return is_gone


def observe_gone(run: Run, request_started_at: datetime) -> bool:
    """Like `record_gone`. The caller's transaction bumps the team after all its runs."""
    is_older = Q(observed_at__lt=request_started_at) | Q(observed_at__gt=timezone.now() + SKEW)
    older = Run.objects.filter(is_older, pk=run.pk)
    was_active = older.filter(status__in=[*ACTIVE, Status.UNKNOWN])
    now = timezone.now()
    gone = {"status": Status.GONE, "rank": 0, "gone_since": now, "ended_at": now, "observed_at": request_started_at}
    gone |= {"pending_long": False, "cancel_open": False, "attention": Attention.NONE.value}
    if was_active.filter(rank=1).update(**gone, last_active_at=F("observed_at")) or was_active.update(**gone):
        return True
    older.update(observed_at=request_started_at)
    return False


def record_readings(readings: Iterable[Reading]) -> int:
    """Write pages of runs into the mirror, one transaction a page. Returns how many runs are new or changed."""
    return sum(_record_page(reading) for reading in readings)


@transaction.atomic
def _record_page(reading: Reading) -> int:
    task, started = reading.task, reading.request_started_at
    seen = {wire.id: wire for wire in reading.runs if fits_an_index(wire.id)}
    # In a fixed order, so that two workers on the same page do not deadlock.
    held = Run.objects.filter(team=task.team_id, endpoint=task.endpoint, arize_id__in=seen).order_by("pk")
    known = {run.arize_id: run for run in held.select_for_update(no_key=True)}
    unknown = [wire for id_, wire in sorted(seen.items()) if id_ not in known]
    new = [_new_run(task, wire, started) for wire in unknown if reading.on_demand or not retention.is_past(wire)]
    # If another worker was faster, its row stays, and the next reading updates it.
    Run.objects.bulk_create(new, ignore_conflicts=True)
    RunSearch.objects.write_new(new)
    _note_creators(task, new)
    if not reading.on_demand:
        news = [End(run, "") for run in new if is_news(task, run.ended_at)]
        note_ends(task.team_id, news, are_new=True)
    for run in known.values():
        if run.task_id == task.pk:
            run.task = task  # its facts depend on the task, which is loaded already
    changed = _update_known([run for run in known.values() if _is_older(run, started)], seen, started)
    touched = {run.arize_id for run in new} | changed | _adopt(task, known.values())
    if any(seen[id_].status.value == Status.COMPLETED for id_ in touched):
        learn_usual(task.pk)
    if touched:
        Team.bump(task.team_id)
    return len(touched)


def _note_creators(task: Task, runs: Iterable[Run]) -> None:
    """Store the user ids of new runs, so that the mirror reads their names. Sorted, to lock in a fixed order."""
    ids = {run.created_by_user_id for run in runs if fits_an_index(run.created_by_user_id or "")}
    rows = [ArizeUser(team_id=task.team_id, endpoint=task.endpoint, arize_id=id_) for id_ in sorted(filter(None, ids))]
    if rows:
        ArizeUser.objects.bulk_create(rows, ignore_conflicts=True)


def _adopt(task: Task, runs: Iterable[Run]) -> set[str]:
    """Move runs to this task that were stored before their task was known. Returns their Arize ids."""
    elsewhere = {run.pk: run.arize_id for run in runs if run.task_id != task.pk}
    of_unknown_task = Run.objects.filter(pk__in=elsewhere, task__arize_id="")
    moved = list(of_unknown_task.values_list("pk", flat=True)) if elsewhere else []
    Run.objects.filter(pk__in=moved).update(task=task)
    return {elsewhere[pk] for pk in moved}


def _update_known(runs: list[Run], seen: dict[str, WireRun], started: datetime) -> set[str]:
    """Update rows that are locked and older than this reading. Returns the Arize ids of those that changed."""
    changes = {run.pk: _changes(run, seen[run.arize_id], started) for run in runs}
    changed = {pk: columns for pk, columns in changes.items() if columns}
    for pk, columns in changed.items():
        Run.objects.filter(pk=pk).update(observed_at=started, **columns)
    by_run = {run: changed[run.pk] for run in runs if run.pk in changed}
    _update_texts(by_run)
    if by_run:
        note_ends(runs[0].team_id, _ends(by_run))
    # An unchanged run that has ended needs no write.
    same = [run.pk for run in runs if run.pk not in changed and (run.is_active or run.status == Status.UNKNOWN)]
    Run.objects.filter(pk__in=same).update(observed_at=started)
    return {run.arize_id for run in runs if run.pk in changed}


def _update_texts(changes: dict[Run, dict[str, Any]]) -> None:
    """Update what the search finds of these runs, if a text changed."""
    written = []
    for run, columns in changes.items():
        if SOURCES & columns.keys():
            written.append(_after(run, columns))
    if written:
        RunSearch.objects.write(written)


def _ends(changes: dict[Run, dict[str, Any]]) -> Iterator[End]:
    """Of the runs that changed their status, or whose errors appeared."""
    for run, columns in changes.items():
        if _ENDING & columns.keys():
            yield End(_after(run, columns), run.status, had_errors=bool(run.num_errors))


def _after(run: Run, columns: dict[str, Any]) -> Run:
    after = copy(run)
    for name, value in columns.items():
        setattr(after, name, value)
    return after


def fits_an_index(arize_id: str) -> bool:
    """PostgreSQL accepts no index entry over 2,704 bytes, including team and endpoint. Longer ids are skipped."""
    fits = len(arize_id.encode()) <= LONGEST_ID
    if not fits:
        log.warning("arize_id_too_long", begins=arize_id[:40], characters=len(arize_id))
    return fits


def _new_run(task: Task, seen: WireRun, started: datetime) -> Run:
    run = Run(team_id=task.team_id, task=task, endpoint=task.endpoint, arize_id=seen.id, observed_at=started)
    for name, value in {"status": Status.UNKNOWN, "sorted_at": timezone.now(), **_read(seen)}.items():
        setattr(run, name, value)
    run.duration_us = duration_us(run.run_started_at, run.run_finished_at)
    run.with_errors, run.pending_long = bool(run.num_errors), run.has_waited_long(started)
    until = run.until(started)
    run.longer_than_usual = until is not None and run.exceeds_usual(until)
    run.progress_changed_at = started if run.is_active else None
    run.error_share = share_of(run.num_successes, run.num_errors)
    # Without an end from Arize: it may have ended long before the panel first saw it.
    run.ended_at = run.end(run.sorted_at)
    run.attention = run.needs(started)
    return run


def learn_usual(task_id: uuid.UUID) -> None:
    """Update `usual_seconds` of the task. Stored, because pages show it in each row."""
    ended = Run.objects.filter(task=task_id, rank=0).order_by("-sorted_at", "-pk")
    rows = ended.values_list("status", "run_started_at", "run_finished_at")[:SCANNED]
    spans = [
        finished - started for status, started, finished in rows if status == Status.COMPLETED and started and finished
    ]
    seconds = [span.total_seconds() for span in spans if timedelta(0) <= span <= LONGEST][:LAST_COMPLETED]
    usual = round(statistics.median(seconds)) if len(seconds) >= FEWEST_COMPLETED else None
    Task.objects.filter(pk=task_id).exclude(usual_seconds=usual).update(usual_seconds=usual)


def duration_us(begin: datetime | None, end: datetime | None) -> int:
    """The duration in microseconds; 0 unless the run has both started and ended."""
    return max(0, (end - begin) // timedelta(microseconds=1)) if begin and end else 0


def _changes(run: Run, seen: WireRun, at: datetime) -> dict[str, Any]:
    """The columns that this reading changes, `at` the start of its request. A member that is missing from the answer
    changes nothing.
    """
    read = _read(seen)
    begin, end = (read.get(name, getattr(run, name)) for name in ("run_started_at", "run_finished_at"))
    read["duration_us"] = duration_us(begin, end)
    if run.is_active and not read.get("rank", 1):
        read["last_active_at"] = run.observed_at
    changes = {name: value for name, value in read.items() if getattr(run, name) != value}
    # If only the JSON differs, no page shows the difference: not worth a write.
    return {} if set(changes) <= {"as_read"} else changes | _facts(run, changes, at)


def _facts(run: Run, changes: dict[str, Any], at: datetime) -> dict[str, Any]:
    """The facts that follow from these changes. While a run is active, `facts` sets those that the clock changes."""
    after = _after(run, changes)
    facts: dict[str, Any] = {"with_errors": bool(after.num_errors)}
    if after.is_active and (not run.is_active or _items(after) != _items(run)):
        facts["progress_changed_at"] = at
    if _TIMES & changes.keys():
        facts["pending_long"] = after.has_waited_long(at)
        if (until := after.until(at)) is not None:
            facts["longer_than_usual"] = after.exceeds_usual(until)
    facts["error_share"] = share_of(after.num_successes, after.num_errors)
    if _TIMES & changes.keys():
        facts["ended_at"] = after.end(at if run.is_active else after.sorted_at)
        facts["cancel_open"] = after.is_active and (run.cancel_open if run.is_active else is_cancel_open(run))
    for name, value in facts.items():
        setattr(after, name, value)
    return facts | {"attention": after.needs(at).value}


def _items(run: Run) -> int:
    return sum(getattr(run, name) or 0 for name in _ITEMS)


def _read(seen: WireRun) -> dict[str, Any]:
    read = {name: getattr(seen, name) for name in _MEMBERS if name in seen.raw}
    if not fits_an_index(read.get("experiment_id") or ""):
        read["experiment_id"] = None  # the JSON still has it, as below
    if not fits_an_index(read.get("created_by_user_id") or ""):
        read["created_by_user_id"] = None
    for name in ("run_started_at", "run_finished_at"):
        if name in read:
            read[name] = true_time(read[name])
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
