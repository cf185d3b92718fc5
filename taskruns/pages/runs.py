"""The page of one run: its fields, its timeline, and links into Arize's own pages.

Links exist only where their format is known: project, dataset and experiment, in Arize's own regions.
Source: Arize's official link tools, August 2026. No link to a task or a run is known.
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.urls import reverse
from django.utils import timezone

from taskruns.arize.endpoints import REGIONS
from taskruns.audit.record import chain_of
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, BatchKind, Cancellation, Outcome, Run, RunNote, Status, Task, Trigger
from taskruns.models.runs import true_time
from taskruns.pages.audit.rows import AuditRow, audit_row
from taskruns.pages.board.rows import STARTED_AGAIN, RunRow, run_rows, unread, with_creators
from taskruns.permissions import Action, TeamAccess
from taskruns.services.batches import KIND_FACTS

from .board import latest_cancellations
from .credentials import warnings_of
from .outcomes import CANCEL_WORDS
from .strip import Strip
from .tasks import task_strip
from .values import Link, Message, Moment, in_words, named, roughly, short_id, status_mark

_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """`kind`: created, started, ended, gone or event. `event`: the audit row of an event."""

    kind: str
    text: str
    icon: str
    at: Moment | None = None
    more: str = ""
    event: AuditRow | None = None


def timeline_of(run: Run, events: Iterable[AuditEvent], *, cause: str, creator: str = "") -> tuple[TimelineEntry, ...]:
    """`cause`: why the run ended, as far as known. `creator`: the name of the person who triggered it, if known.

    Entries without a time are placed where they must have happened.
    """
    steps = [_created(run, creator), *_started(run), *map(_event, events), *_ended(run, cause)]
    return tuple(entry for _, entry in sorted(steps, key=lambda step: step[0]))


def _created(run: Run, creator: str) -> tuple[datetime, TimelineEntry]:
    if (at := true_time(run.created_at)) is None:
        return run.first_seen_at, TimelineEntry("created", "First seen here", "clock", Moment.of(run.first_seen_at))
    who = creator or run.created_by_user_id
    by = f"by {who}" if who else ""
    return at, TimelineEntry("created", "Created in Arize", "clock", Moment.of(at), by)


def _started(run: Run) -> list[tuple[datetime, TimelineEntry]]:
    at = true_time(run.run_started_at)
    return [] if at is None else [(at, TimelineEntry("started", "Started", "play", Moment.of(at)))]


def _event(event: AuditEvent) -> tuple[datetime, TimelineEntry]:
    row = audit_row(event)
    icon = {"success": "success", "warning": "warning", "error": "error"}.get(row.tone, "info")
    return event.at, TimelineEntry("event", row.sentence, icon, row.at, row.reason, row)


def _ended(run: Run, cause: str) -> list[tuple[datetime, TimelineEntry]]:
    mark, at = status_mark(run), true_time(run.run_finished_at)
    if run.status == Status.GONE:
        gone = TimelineEntry("gone", "Arize no longer knows this run", mark.icon, Moment.of(run.gone_since))
        return [(run.gone_since or _LAST, gone)]
    if run.is_active or (run.status == Status.UNKNOWN and at is None):
        return []
    entry = TimelineEntry("ended", f"Ended: {mark.word} {mark.note}".rstrip(), mark.icon, Moment.of(at), cause)
    return [(at or _LAST, entry)]


_APPS = {region.url: region.url.replace("https://api.", "https://app.", 1) for region in REGIONS}


def run_links(run: Run) -> tuple[Link, ...]:
    """Expects `run.task.credential` to be loaded. Its spaces name the organization, except on old servers."""
    key = run.task.credential
    spaces: list[dict[str, Any]] = key.spaces if key else []
    named = (space.get("organization_id", "") for space in spaces if space["id"] == run.task.space_id)
    return arize_links(run.task, run, next(named, ""), run.endpoint)


def arize_links(task: Task, run: Run, organization_id: str, endpoint: str) -> tuple[Link, ...]:
    """The known links; empty if an id in the path or the web address of this endpoint is unknown."""
    app = _APPS.get(endpoint)
    if not (app and _is_segment(organization_id) and _is_segment(task.space_id)):
        return ()
    space = f"{app}/organizations/{_segment(organization_id)}/spaces/{_segment(task.space_id)}"
    as_read = json.loads(task.as_read)
    project, dataset = _id(as_read, "project_id"), _id(as_read, "dataset_id")
    links = []
    if project:
        links.append(Link("project", f"{space}/projects/{_segment(project)}?selectedTab=llmTracing"))
    if dataset:
        links.append(Link("dataset", f"{space}/datasets/{_segment(dataset)}?selectedTab=examples"))
    if dataset and run.experiment_id:
        compare = f"{space}/datasets/{_segment(dataset)}/experiments/compare"
        links.append(Link("experiment", f"{compare}?queryFilterA=&experimentId={_segment(run.experiment_id)}"))
    return tuple(links)


def _id(as_read: object, name: str) -> str:
    value = as_read.get(name) if isinstance(as_read, dict) else None
    return value if isinstance(value, str) and _is_segment(value) else ""


def _is_segment(id_: str) -> bool:
    """Browsers remove `.` and `..` from paths, even if percent-encoded."""
    return id_ not in {"", ".", ".."}


def _segment(id_: str) -> str:
    return quote(id_, safe="")


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a run's JSON; `name` is Arize's own name for it."""

    label: str
    name: str
    text: str = ""
    moment: Moment | None = None
    copy: bool = False


@dataclass(frozen=True, slots=True)
class By:
    """Who did something: the name, or the address if there is no name. `more`: what tells people of one name apart."""

    name: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    by: By
    at: Moment | None


@dataclass(frozen=True, slots=True)
class PaceBar:
    """How long a run takes, beside its task's usual duration: paths in a picture 100 wide and 8 high."""

    text: str
    path: str
    usual_path: str
    is_longer: bool


@dataclass(frozen=True, slots=True)
class RunPage:
    """`note`: the newest of `notes`. `note_url`: empty for people who may not leave one. `is_cancel_sure`: whether
    Arize confirmed that the cancel of `cancelled_by` ended the run. `explained`: when the cancel of `explanation` was
    requested, if the run is over.
    """

    row: RunRow
    fields: tuple[Field, ...]
    explanation: str
    explained: Moment | None
    warnings: tuple[Message, ...]
    as_of: Moment | None
    as_read: str
    timeline: tuple[TimelineEntry, ...]
    strip: Strip
    task_url: str
    short_id: str
    started_by: By | None = None
    cancelled_by: By | None = None
    is_cancel_sure: bool = False
    pace_bar: PaceBar | None = None
    note: Note | None = None
    notes: int = 0
    note_url: str = ""
    links: tuple[Link, ...] = ()
    audit_url: str = ""  # the entries about this run, for people who may read the log
    again_url: str = ""  # where it can be started again, for people who may

    @property
    def may_change(self) -> bool:
        """Whether the page polls."""
        return self.row.status.value in {Status.PENDING, Status.RUNNING, Status.UNKNOWN} or bool(self.row.stopping)

    @property
    def has_acts(self) -> bool:
        return any(entry.event for entry in self.timeline)


def run_fields(run: Run, *, triggered_by: str = "") -> tuple[Field, ...]:
    """The 13 members that Arize's own page shows, then `failure_reason`. `triggered_by`: the name, if known."""
    creator = run.created_by_user_id or ""
    return (
        Field("Run ID", "id", run.arize_id, copy=True),
        Field("Task ID", "task_id", run.task.arize_id, copy=True),
        Field("Experiment ID", "experiment_id", run.experiment_id or "", copy=bool(run.experiment_id)),
        Field("Status", "status", run.raw_status),
        Field("Started", "run_started_at", moment=Moment.of(run.run_started_at)),
        Field("Finished", "run_finished_at", moment=Moment.of(run.run_finished_at)),
        Field("Data from", "data_start_time", moment=Moment.of(run.data_start_time)),
        Field("Data until", "data_end_time", moment=Moment.of(run.data_end_time)),
        Field("Succeeded", "num_successes", _number(run.num_successes)),
        Field("Errored", "num_errors", _number(run.num_errors)),
        Field("Skipped", "num_skipped", _number(run.num_skipped)),
        Field("Created", "created_at", moment=Moment.of(run.created_at)),
        Field("Created by", "created_by_user_id", named(triggered_by, creator)),
        Field("Failure reason", "failure_reason", run.failure_reason or ""),
    )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def run_json(run: Run) -> str:
    """The run as last read, indented."""
    return json.dumps(json.loads(run.as_read), indent=2, ensure_ascii=False)


HISTORY = 200


def run_page(run_id: uuid.UUID, *, team_access: TeamAccess) -> RunPage:
    """One run with its audit rows, which every member may read."""
    run = with_creators(Run.objects.select_related("task__credential")).get(pk=run_id)
    last = latest_cancellations([run]).get(run.pk)
    (row,) = run_rows([run], accesses=[team_access])
    key, slug, may_note = run.task.credential, team_access.team.slug, team_access.access.may(Action.RUNS_NOTE)
    notes = list(RunNote.objects.filter(run=run).select_related("person").order_by("-created_at")[:HISTORY])
    warnings = (*(warnings_of([key], readers=[team_access]) if key else ()), *(unread([run]) if run.is_active else ()))
    return RunPage(
        row=row,
        fields=run_fields(run, triggered_by=row.creator),
        explanation=last.explanation if last else "",
        explained=Moment.of(last.requested_at) if last and not run.is_active else None,
        warnings=warnings,
        as_of=Moment.of(run.observed_at),
        as_read=run_json(run),
        timeline=timeline_of(run, _events(run), cause=row.cause, creator=row.creator),
        strip=task_strip(run.task, slug=slug, here=run),
        task_url=reverse("task", args=[slug, run.task_id]),
        short_id=short_id(run.arize_id),
        started_by=_started_by(run, row),
        cancelled_by=_cancelled_by(run, last),
        is_cancel_sure=last is not None and last.outcome == Outcome.CONFIRMED,
        pace_bar=pace_bar(run, timezone.now()),
        note=_note(notes[0]) if notes else None,
        notes=len(notes),
        note_url=reverse("run-note", args=[slug, run.pk]) if may_note else "",
        links=run_links(run),
        audit_url=_audit_url(run, team_access),
        again_url=_again_url(run, team_access),
    )


def _audit_url(run: Run, team_access: TeamAccess) -> str:
    if not team_access.access.may(Action.AUDIT_VIEW):
        return ""
    return reverse("audit", args=[team_access.team.slug]) + AuditFilter(run=run.arize_id).query()


def _again_url(run: Run, team_access: TeamAccess) -> str:
    if run.status not in STARTED_AGAIN or not KIND_FACTS[BatchKind.TRIGGER].may(team_access.access):
        return ""
    return reverse("batches", args=[team_access.team.slug])


def pace_bar(run: Run, now: datetime) -> PaceBar | None:
    """None without a start or a usual duration. Expects `run.task` to be loaded."""
    started, until, usual = true_time(run.run_started_at), run.until(now), run.task.usual_seconds
    if started is None or until is None or not usual:
        return None
    took = max(0.0, (until - started).total_seconds())
    scale = 100 / max(took, usual)
    verb = "so far" if run.is_active else "in all"
    return PaceBar(
        text=f"{in_words(timedelta(seconds=took))} {verb}, usually {roughly(usual)}",
        path=f"M0 0h{took * scale:.1f}v8H0z",
        usual_path=f"M{min(99.5, usual * scale):.1f} 0v8",
        is_longer=bool(run.longer_than_usual),
    )


def _started_by(run: Run, row: RunRow) -> By | None:
    """The person who started it here; otherwise whoever Arize names, which for a start from here owns the API key."""
    here = Trigger.objects.filter(run=run).select_related("person").first()
    if here is not None:
        return _by(here)
    return By(row.creator, row.creator_id) if row.creator else By(row.creator_id) if row.creator_id else None


def _cancelled_by(run: Run, last: Cancellation | None) -> By | None:
    """None if no cancel from here ended the run: then its cause says what is known."""
    is_ours = run.status == Status.CANCELLED and last is not None and CANCEL_WORDS[Outcome(last.outcome)].cause
    return _by(last) if is_ours and last is not None else None


def _by(act: Trigger | Cancellation | RunNote) -> By:
    name = act.person.name if act.person else ""
    return By(name, act.person_label) if name else By(act.person_label)


def _note(note: RunNote) -> Note:
    return Note(note.text, _by(note), Moment.of(note.created_at))


def _events(run: Run) -> Iterable[AuditEvent]:
    """The newest rows of the team's log about this run."""
    rows = AuditEvent.objects.filter(chain=chain_of(run.team_id), target_type="run", target_id=str(run.pk))
    return rows.order_by("-seq")[:HISTORY][::-1]
