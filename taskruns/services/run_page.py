"""Everything about one run, with its own audit rows, which every member may read."""

import uuid

from taskruns.display.arize_links import run_links
from taskruns.display.audit import audit_row
from taskruns.display.runs import RunPage, run_fields, run_json
from taskruns.display.words import Moment
from taskruns.models import AuditEvent, Run

from . import arize_users
from .board import Seat, latest_cancellations, warnings_of
from .board.rows import run_rows, unread

HISTORY = 200


def run_page(run_id: uuid.UUID, *, seat: Seat) -> RunPage:
    run = Run.objects.select_related("task__credential").get(pk=run_id)
    last = latest_cancellations([run]).get(run.pk)
    history = AuditEvent.objects.filter(chain=f"team:{run.team_id}", target_type="run", target_id=str(run.pk)).order_by(
        "-seq"
    )[:HISTORY]
    key = run.task.credential
    warnings = (*(warnings_of([key]) if key else ()), *(unread([run]) if run.is_active else ()))
    return RunPage(
        row=run_rows([run], seats=[seat])[0],
        fields=run_fields(run, triggered_by=arize_users.names_of([run]).get(run.pk, "")),
        explanation=last.explanation if last else "",
        warnings=warnings,
        as_of=Moment.of(run.observed_at),
        as_read=run_json(run),
        history=tuple(audit_row(event) for event in history),
        links=run_links(run),
    )
