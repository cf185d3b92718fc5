"""Everything about one run, read from the mirror and the audit log."""

import uuid
from collections.abc import Iterable

from django.urls import reverse

from taskruns.display.durations import pace_of
from taskruns.display.runs import RunPage, run_fields, run_json, run_row
from taskruns.display.timeline import timeline_of
from taskruns.display.words import Moment
from taskruns.models import AuditEvent, Run
from taskruns.permissions import Access, Action

from .board import latest_cancellations, warnings_of
from .tasks import task_strip

HISTORY = 200


def run_page(run_id: uuid.UUID, *, access: Access, slug: str) -> RunPage:
    """One run with its own audit rows, which every member may read."""
    run = Run.objects.select_related("task__credential").get(pk=run_id)
    last = latest_cancellations([run.pk]).get(run.pk)
    row = run_row(run, last=last, may_cancel=access.may(Action.RUNS_CANCEL), slug=slug)
    key = run.task.credential
    return RunPage(
        row=row,
        fields=run_fields(run),
        explanation=last.explanation if last else "",
        warnings=warnings_of([key]) if key else (),
        as_of=Moment.of(run.observed_at),
        as_read=run_json(run),
        timeline=timeline_of(run, _events(run), cause=row.cause),
        pace=pace_of(run),
        strip=task_strip(run.task, slug=slug, here=run),
        task_url=reverse("task", args=[slug, run.task_id]),
    )


def _events(run: Run) -> Iterable[AuditEvent]:
    """The newest rows of the team's log about this run."""
    rows = AuditEvent.objects.filter(chain=f"team:{run.team_id}", target_type="run", target_id=str(run.pk))
    return rows.order_by("-seq")[:HISTORY][::-1]
