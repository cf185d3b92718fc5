"""Everything about one run, read from the mirror and the audit log."""

import uuid
from collections.abc import Iterable

from django.urls import reverse

from taskruns.display.arize_links import run_links
from taskruns.display.runs import RunPage, run_fields, run_json
from taskruns.display.timeline import timeline_of
from taskruns.display.words import Moment
from taskruns.models import AuditEvent, Run

from .board import Seat, latest_cancellations, warnings_of
from .board.rows import run_rows, unread
from .runs import arize_users
from .tasks import task_strip

HISTORY = 200


def run_page(run_id: uuid.UUID, *, seat: Seat) -> RunPage:
    """One run with its own audit rows, which every member may read."""
    run = arize_users.with_creators(Run.objects.select_related("task__credential")).get(pk=run_id)
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
    rows = AuditEvent.objects.filter(chain=f"team:{run.team_id}", target_type="run", target_id=str(run.pk))
    return rows.order_by("-seq")[:HISTORY][::-1]
