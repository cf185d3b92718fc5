"""Keeps the facts about runs that change with the clock or with a cancel: longer than usual, pending for long, a cancel
that is not confirmed, and how much a run needs attention.

Pages and filters read them as columns, and open boards reload only when the team's `board_version` changes. So each
change bumps it. `observations` sets the facts that a reading changes.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

import structlog
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery, UUIDField
from django.utils import timezone

from taskruns.models import Cancellation, Outcome, Run, RunSearch, Team
from taskruns.models.prepared import Prepared, Slot, numbered, numbered_slots, update_row
from taskruns.models.runs import LATELY, share_of

log = structlog.get_logger(__name__)

CHUNK = 500  # runs in one transaction: short enough for other writers to wait
CHUNKS = 20  # in one job, so that other jobs get their turn
# Outcomes of the latest cancel that leave an active run in doubt: open or unknown, refused, or said to have stopped the
# run although it is active. Not `not_sent`: Arize was never asked.
NOT_CONFIRMED = (
    *(Outcome.OPEN, Outcome.UNKNOWN, Outcome.STILL_RUNNING, Outcome.REFUSED),
    *(Outcome.CONFIRMED, Outcome.ALREADY_CANCELLED),
)
_COLUMNS = (
    *("team", "status", "rank", "sorted_at", "created_at", "first_seen_at", "observed_at", "last_active_at"),
    *("run_started_at", "run_finished_at", "gone_since", "ended_at", "num_successes", "num_errors"),
    *("with_errors", "longer_than_usual", "pending_long", "progress_changed_at", "cancel_open", "attention"),
    *("error_share", "is_filled_in", "task__usual_seconds"),
)
_SEARCHED = ("arize_id", "experiment_id", "failure_reason")


def update_all() -> int:
    """Update the active runs of every team, and those that need no attention any more. Returns how many changed."""
    changed = sum(update_active(team_id) for team_id in Team.objects.active().values_list("pk", flat=True))
    return changed + update_ended()


def update_active(team_id: uuid.UUID) -> int:
    """Update the team's active runs. Returns how many changed."""
    now = timezone.now()
    changed = [run.pk for run in _active().rows(team=team_id) if _changes(run, now)]
    active = Run.objects.filter(team=team_id, rank=1)
    return sum(_write(active.filter(pk__in=changed[at : at + CHUNK])) for at in range(0, len(changed), CHUNK))


@cache
def _active() -> Prepared[Run]:
    """Each round needs them."""
    return Prepared(_loaded(Run.objects.filter(team=Slot("team", UUIDField()), rank=1)))


def update_ended() -> int:
    """End the attention for runs that ended a day ago. Returns how many there were."""
    over = Run.objects.filter(attention__gt=0, ended_at__lte=timezone.now() - LATELY)
    found = 0
    while chunk := list(over.values_list("pk", flat=True)[:CHUNK]):
        found += _write(Run.objects.filter(pk__in=chunk))
    return found


def update_cancelled(run_ids: Iterable[uuid.UUID]) -> None:
    """Update runs after a cancel of them was opened or closed. The caller's transaction holds their locks, and bumps
    the boards.
    """
    now, ids = timezone.now(), set(run_ids)
    if not ids:
        return
    for run in _cancelled(len(ids)).rows(**numbered(ids)):
        outcome: str | None = run.last_outcome  # type: ignore[attr-defined] # annotated
        was_open, run.cancel_open = bool(run.cancel_open), run.is_active and outcome in NOT_CONFIRMED
        if run.cancel_open != was_open:
            update_row(Run, run.pk, cancel_open=run.cancel_open, attention=run.needs(now))


@cache
def _cancelled(number: int) -> Prepared[Run]:
    """This number of runs, each with the outcome of its latest cancel."""
    return Prepared(with_cancel(_loaded(Run.objects.filter(pk__in=numbered_slots(number)))))


def is_cancel_open(run: Run) -> bool:
    """Whether the latest cancel of the run is not confirmed, if the run is active."""
    latest = Cancellation.objects.filter(run=run.pk).order_by("-requested_at").values_list("outcome", flat=True)
    return latest.first() in NOT_CONFIRMED


def with_cancel(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Annotate each run with `last_outcome`: that of its latest cancel, None without one."""
    latest = Cancellation.objects.filter(run=OuterRef("pk")).order_by("-requested_at")
    read_with: dict[str, Any] = {"last_outcome": Subquery(latest.values("outcome")[:1])}
    return runs.annotate(**read_with)


def fill_in() -> bool:
    """Compute the facts and the texts of runs that have none since an upgrade, the newest first. True if there may be
    more.
    """
    filled = 0
    for _ in range(CHUNKS):
        missing = Run.objects.filter(is_filled_in=None).order_by("-sorted_at").values_list("pk", flat=True)
        chunk = list(missing[:CHUNK])
        if not chunk:
            break
        filled += _write(Run.objects.filter(pk__in=chunk))
    if filled:
        log.info("run_facts_filled_in", runs=filled)
    return bool(chunk)


@transaction.atomic
def _write(runs: QuerySet[Run]) -> int:
    """Compute again under lock: a reading may have changed a run since the query."""
    now = timezone.now()
    locked = _loaded(runs, *_SEARCHED).order_by("pk").select_for_update(of=("self",), no_key=True)
    changes = {run: changed for run in locked if (changed := _changes(run, now))}
    same: dict[tuple[tuple[str, Any], ...], list[uuid.UUID]] = {}
    for run, changed in changes.items():
        same.setdefault(tuple(changed.items()), []).append(run.pk)
    for columns, pks in same.items():
        Run.objects.filter(pk__in=pks).update(**dict(columns))
    RunSearch.objects.write([run for run, changed in changes.items() if "is_filled_in" in changed])
    for team_id in sorted({run.team_id for run in changes}):
        Team.bump(team_id)
    return len(changes)


def _loaded(runs: QuerySet[Run], *more: str) -> QuerySet[Run]:
    return runs.select_related("task").only(*_COLUMNS, *more)


def _changes(run: Run, now: datetime) -> dict[str, Any]:
    """The facts that differ from the stored ones now. Sets them on `run` too. Expects the task to be loaded."""
    until = run.until(now)
    facts: dict[str, Any] = {"pending_long": run.has_waited_long(now)}
    if run.is_active or run.longer_than_usual is None:
        facts["longer_than_usual"] = until is not None and run.exceeds_usual(until)
    if run.with_errors is None:
        facts["with_errors"] = bool(run.num_errors)
    if run.is_active and run.progress_changed_at is None:
        facts["progress_changed_at"] = run.observed_at
    if run.is_filled_in is None:
        facts |= _filled_in(run)
    stored = {name: getattr(run, name) for name in (*facts, "attention")}
    for name, value in facts.items():
        setattr(run, name, value)
    facts["attention"] = run.needs(now).value
    return {name: value for name, value in facts.items() if stored[name] != value}


def _filled_in(run: Run) -> dict[str, Any]:
    return {
        "cancel_open": run.is_active and is_cancel_open(run),
        "error_share": share_of(run.num_successes, run.num_errors),
        "ended_at": run.end(run.last_active_at or run.sorted_at),
        "is_filled_in": True,
    }
