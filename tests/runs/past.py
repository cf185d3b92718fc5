"""Runs that have ended."""

import io
from datetime import timedelta
from typing import Any

from django.core.management import call_command

from taskruns.models import Run, Status, Task
from tests.factories import make_run
from tests.runs.readings import START


def past(task: Task, *seconds: float, status: Status = Status.COMPLETED, **fields: Any) -> list[Run]:
    """Ended runs of these lengths, the first one the newest."""
    made = []
    for number, length in enumerate(seconds):
        begun = START - timedelta(hours=number + 1)
        times = {"created_at": begun, "run_started_at": begun, "run_finished_at": begun + timedelta(seconds=length)}
        made.append(make_run(task, status=status, **times | fields))
    return made


def fill(team: str, runs: int) -> str:
    out = io.StringIO()
    call_command("fill_runs", team, "--runs", str(runs), stdout=out)
    return out.getvalue()
