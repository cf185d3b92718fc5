"""What the board and the run page show."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from django.urls import reverse

from taskruns.audit.record import chain_of
from taskruns.models import AuditEvent, Run
from taskruns.pages.board.rows import RunRow, run_rows, with_creators
from taskruns.pages.board.staleness import unread

from .arize_links import run_links
from .board import Seat, latest_cancellations, warnings_of
from .strip import Strip
from .tasks import task_strip
from .timeline import TimelineEntry, timeline_of
from .values import Link, Message, Moment


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


HISTORY = 200


def run_page(run_id: uuid.UUID, *, seat: Seat) -> RunPage:
    """One run with its own audit rows, which every member may read."""
    run = with_creators(Run.objects.select_related("task__credential")).get(pk=run_id)
    last = latest_cancellations([run]).get(run.pk)
    (row,) = run_rows([run], seats=[seat])
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
        strip=task_strip(run.task, slug=seat.team.slug, here=run),
        task_url=reverse("task", args=[seat.team.slug, run.task_id]),
        links=run_links(run),
    )


def _events(run: Run) -> Iterable[AuditEvent]:
    """The newest rows of the team's log about this run."""
    rows = AuditEvent.objects.filter(chain=chain_of(run.team_id), target_type="run", target_id=str(run.pk))
    return rows.order_by("-seq")[:HISTORY][::-1]
