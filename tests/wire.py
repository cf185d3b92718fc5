"""Arize in tests: its address, its urls, and a run in the format of its API."""

from typing import Any

from taskruns.models import Run, Task

ENDPOINT = "http://arize.test:9999"


def wire_run(run: Run, status: str = "RUNNING", **members: Any) -> dict[str, Any]:
    """A run in the JSON format of Arize's API."""
    return {
        "id": run.arize_id,
        "task_id": run.task.arize_id,
        "status": status,
        "run_started_at": "2026-11-23T02:55:00.000Z",
        "run_finished_at": None,
        "data_start_time": None,
        "data_end_time": None,
        "num_successes": 10,
        "num_errors": 1,
        "num_skipped": 0,
        "created_at": "2026-11-23T02:54:59.000Z",
        "created_by_user_id": "VXNlcjoxOm5OYkM=",
    } | members


def run_url(run: Run, action: str = "") -> str:
    return f"{ENDPOINT}/v2/task-runs/{run.arize_id}{action}"


def trigger_url(task: Task) -> str:
    return f"{ENDPOINT}/v2/tasks/{task.arize_id}/trigger"
