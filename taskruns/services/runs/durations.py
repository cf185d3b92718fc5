"""How long the runs of a task usually take, kept beside the task: pages show it in each row without computing it."""

import statistics
import uuid
from datetime import timedelta

from taskruns.models import Run, Status, Task

ENOUGH = 3  # completed runs; fewer tell nothing about the next one
OF_LAST = 20  # completed runs
# How far back they are looked for: a task that nearly always fails must not make a reading slow.
LOOKED_THROUGH = 200  # runs
# Servers written in Go send the year 1 for "not yet": what lasted longer than this has no true start.
LONGEST = timedelta(days=365)


def learn_usual(task_id: uuid.UUID) -> None:
    """Bring `usual_seconds` up to date: the median of the last completed runs of which start and end are known."""
    ended = Run.objects.filter(task=task_id, rank=0).order_by("-sorted_at", "-pk")
    rows = ended.values_list("status", "run_started_at", "run_finished_at")[:LOOKED_THROUGH]
    spans = [
        finished - started for status, started, finished in rows if status == Status.COMPLETED and started and finished
    ]
    seconds = [span.total_seconds() for span in spans if timedelta(0) <= span <= LONGEST][:OF_LAST]
    usual = round(statistics.median(seconds)) if len(seconds) >= ENOUGH else None
    Task.objects.filter(pk=task_id).exclude(usual_seconds=usual).update(usual_seconds=usual)
