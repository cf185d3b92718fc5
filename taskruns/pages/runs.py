"""The page of one run: its fields, its timeline, and links into Arize's own pages.

Links exist only where their format is known: project, dataset and experiment, in Arize's own regions.
Source: Arize's official link tools, August 2026. No link to a task or a run is known.
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from django.urls import reverse

from taskruns.arize.endpoints import REGIONS
from taskruns.audit.record import chain_of
from taskruns.models import AuditEvent, Run, Status, Task
from taskruns.pages.audit.rows import AuditRow, audit_row
from taskruns.pages.board.rows import RunRow, run_rows, unread, with_creators
from taskruns.permissions import TeamAccess

from .board import latest_cancellations
from .credentials import warnings_of
from .strip import Strip
from .tasks import task_strip
from .values import Link, Message, Moment, status_mark, true_time

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
        Field("Created by", "created_by_user_id", f"{triggered_by} ({creator})" if triggered_by else creator),
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
    key = run.task.credential
    warnings = (*(warnings_of([key]) if key else ()), *(unread([run]) if run.is_active else ()))
    return RunPage(
        row=row,
        fields=run_fields(run, triggered_by=row.creator),
        explanation=last.explanation if last else "",
        warnings=warnings,
        as_of=Moment.of(run.observed_at),
        as_read=run_json(run),
        timeline=timeline_of(run, _events(run), cause=row.cause, creator=row.creator),
        strip=task_strip(run.task, slug=team_access.team.slug, here=run),
        task_url=reverse("task", args=[team_access.team.slug, run.task_id]),
        links=run_links(run),
    )


def _events(run: Run) -> Iterable[AuditEvent]:
    """The newest rows of the team's log about this run."""
    rows = AuditEvent.objects.filter(chain=chain_of(run.team_id), target_type="run", target_id=str(run.pk))
    return rows.order_by("-seq")[:HISTORY][::-1]
