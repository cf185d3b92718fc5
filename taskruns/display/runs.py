"""What the board and the run page show."""

import hashlib
import json
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache

from django.urls import reverse

from taskruns.models import Cancellation, Outcome, Run, Status

from .durations import Pace, pace_of
from .strip import Strip
from .timeline import TimelineEntry
from .words import Counts, Duration, Link, Message, Moment, StatusMark, counts_of, duration_of, status_mark

# Arize ends a run that had nothing to do, or bad credentials, within seconds and without counts.
ARIZE_ENDS_WITHIN = timedelta(seconds=10)
# Ends after which a run that is active goes on against Arize's word.
GOES_ON = (Outcome.CONFIRMED, Outcome.STILL_RUNNING)


@dataclass(frozen=True, slots=True)
class RunRow:
    """One row of the board. `version` changes exactly when something in the row does: 16 hex digits of a hash.

    `creator` is the name of who triggered the run, empty where only the `creator_id` is known.
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
    alarm: bool = False  # the run goes on although Arize said otherwise
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
    """`last` is the run's cancellation that counts. `why_old`: why its state is not of this moment, if it is not.
    `creator`: the name of who triggered it, if it is known.

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
        stopping=f"stopping, asked by {last.person_label}" if is_open and last and run.is_active else "",
        note=last_note(run, last),
        alarm=last is not None and run.is_active and last.outcome in GOES_ON,
        can_pick=can_cancel and not team,
        team=team,
        read=Moment.of(run.observed_at) if why_old else None,
        why_old=why_old,
        pace=pace_of(run),
    )
    return _with_version(row)


# Django looks for an address anew each time, and a board asks for the same ones again and again.
@lru_cache(maxsize=8_192)
def _url(name: str, slug: str, run_id: uuid.UUID) -> str:
    return reverse(name, args=[slug, run_id])


def _with_version(row: RunRow) -> RunRow:
    return replace(row, version=hashlib.blake2b(repr(row).encode(), digest_size=8).hexdigest())


def cause_of(run: Run, last: Cancellation | None) -> str:
    """Who cancelled a CANCELLED run, as far as anyone can know: Arize itself does not say."""
    if run.status != Status.CANCELLED:
        return run.failure_reason or "" if run.status == Status.FAILED else ""
    asked = _asked(last) if last is not None else ""
    if last is not None and asked:
        return f"{asked}: {last.reason}" if last.reason else asked
    if run.failure_reason:
        return f"cancelled by Arize: {run.failure_reason}"
    if _ended_at_once(run):
        return "cancelled by Arize within seconds, nothing was evaluated"
    return "cancelled by someone outside this team"


def joined_sentence(holder: Cancellation, *, is_own: bool) -> str:
    """Who asked first, as the row of the run tells everybody in the team. Expects the batch to be loaded, if any."""
    at = Moment.of(holder.requested_at)
    when = f" at {at.text}" if at else ""
    if is_own:
        return f"You asked for it{when} already."
    if _is_held(holder):
        return f"The emergency stop that {holder.person_label} pulled asked for it{when}."
    return f"{holder.person_label} asked for it{when}."


def _is_held(last: Cancellation) -> bool:
    return last.batch is not None and last.batch.stop_id is not None


def _asked(last: Cancellation) -> str:
    """Whose press or hold ended the run, or may have; empty: none. Expects the batch to be loaded, if it is of one."""
    if last.outcome in {Outcome.OPEN, Outcome.CONFIRMED}:
        who = "a hold: emergency stop pulled by" if _is_held(last) else "cancelled by"
        return f"{who} {last.person_label}"
    if last.outcome == Outcome.STILL_RUNNING:
        return f"asked for by {last.person_label}, Arize accepted it"
    if last.outcome == Outcome.UNKNOWN:
        what = "is being found out" if last.followed else "could not be found out"
        return f"asked for by {last.person_label}, whether that ended it {what}"
    return ""


def _ended_at_once(run: Run) -> bool:
    begun = run.run_started_at or run.created_at
    if begun is None or run.run_finished_at is None:
        return False
    untouched = not (run.num_successes or run.num_errors or run.num_skipped)
    return untouched and run.run_finished_at - begun <= ARIZE_ENDS_WITHIN


def last_note(run: Run, last: Cancellation | None) -> str:
    """What the latest cancellation still has to say about a run that goes on."""
    if last is None or not run.is_active:
        return ""
    return {
        Outcome.UNKNOWN: "A cancel was sent but its end is unknown. The panel keeps looking; you may try again.",
        Outcome.CONFIRMED: "Arize said that it was cancelled, but the run goes on. Look at it in Arize.",
        Outcome.STILL_RUNNING: "Arize accepted a cancel, but the run still goes on.",
        Outcome.REFUSED: "Arize refused the last cancel.",
        Outcome.NOT_SENT: "The last cancel could not be sent.",
    }.get(Outcome(last.outcome), "")


@dataclass(frozen=True, slots=True)
class Field:
    """One named member of a run as Arize gave it; `name` is Arize's own member name."""

    label: str
    name: str
    text: str = ""
    moment: Moment | None = None
    copy: bool = False


@dataclass(frozen=True, slots=True)
class RunPage:
    row: RunRow
    fields: tuple[Field, ...]
    explanation: str
    warnings: tuple[Message, ...]
    as_of: Moment | None
    as_read: str
    timeline: tuple[TimelineEntry, ...]
    strip: Strip
    task_url: str
    links: tuple[Link, ...] = ()

    @property
    def has_acts(self) -> bool:
        return any(entry.event for entry in self.timeline)


def run_fields(run: Run, *, triggered_by: str = "") -> tuple[Field, ...]:
    """The 13 members of the original Arize page, then `failure_reason`. `triggered_by`: the name, if it is known."""
    creator = run.created_by_user_id or ""
    return (
        Field("Run id", "id", run.arize_id, copy=True),
        Field("Task id", "task_id", run.task.arize_id, copy=True),
        Field("Experiment id", "experiment_id", run.experiment_id or "", copy=bool(run.experiment_id)),
        Field("Status", "status", run.raw_status),
        Field("Started", "run_started_at", moment=Moment.of(run.run_started_at)),
        Field("Finished", "run_finished_at", moment=Moment.of(run.run_finished_at)),
        Field("Data from", "data_start_time", moment=Moment.of(run.data_start_time)),
        Field("Data until", "data_end_time", moment=Moment.of(run.data_end_time)),
        Field("Succeeded", "num_successes", _number(run.num_successes)),
        Field("Errored", "num_errors", _number(run.num_errors)),
        Field("Skipped", "num_skipped", _number(run.num_skipped)),
        Field("Created", "created_at", moment=Moment.of(run.created_at)),
        Field("Created by", "created_by_user_id", f"{triggered_by} ({creator})" if triggered_by else creator),
        Field("Failure reason", "failure_reason", run.failure_reason or ""),
    )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def run_json(run: Run) -> str:
    """The run as last read, indented for people."""
    return json.dumps(json.loads(run.as_read), indent=2, ensure_ascii=False)
