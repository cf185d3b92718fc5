"""Checks the sandbox's answers as strictly as Arize's own client."""

import base64
import re
from typing import Any

TEXT, WHOLE = (str,), (int,)
STRICT_RUN = {
    "id": TEXT,
    "task_id": TEXT,
    "experiment_id": (str, type(None)),
    "status": TEXT,
    "run_started_at": (str, type(None)),
    "run_finished_at": (str, type(None)),
    "data_start_time": (str, type(None)),
    "data_end_time": (str, type(None)),
    "num_successes": WHOLE,
    "num_errors": WHOLE,
    "num_skipped": WHOLE,
    "created_at": TEXT,
    "created_by_user_id": (str, type(None)),
    "failure_reason": (str, type(None)),
}


def strictly_read(run: dict[str, Any]) -> None:
    """Fails where the official client of August 2026 would, and for faults that it would overlook."""
    assert run.keys() == STRICT_RUN.keys()
    for name, value in run.items():
        assert type(value) in STRICT_RUN[name], name
        if value is not None and (name.endswith("_at") or name in {"data_start_time", "data_end_time"}):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value), name
    assert run["status"] in {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
    assert base64.b64decode(run["id"], validate=True).decode().startswith("TaskRun:")
    times = [run[name] for name in ("created_at", "run_started_at", "run_finished_at") if run[name]]
    assert times == sorted(times)
