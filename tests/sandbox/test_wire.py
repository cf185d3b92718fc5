"""How the simulated Arize spells things: as the newest server, as an old one, and as a mixture of both."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from taskruns.sandbox.server import running
from taskruns.sandbox.simulation import Settings
from taskruns.sandbox.wire import Wire

from .caller import Caller


@contextmanager
def speaking(wire: Wire) -> Iterator[Caller]:
    with running(Settings(keys={"ak-full-key-1": ()}, wire=wire, tasks=20, speed=0)) as server:
        yield Caller(server.url)


@pytest.fixture
def arize() -> Iterator[Caller]:
    with speaking(Wire.UPPER) as caller:
        yield caller


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
    """Fails as the official client of August 2026 would, and for what it would only overlook."""
    assert run.keys() == STRICT_RUN.keys()
    for name, value in run.items():
        assert type(value) in STRICT_RUN[name], name
        if value is not None and (name.endswith("_at") or name in {"data_start_time", "data_end_time"}):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value), name
    assert run["status"] in {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
    assert base64.b64decode(run["id"], validate=True).decode().startswith("TaskRun:")
    times = [run[name] for name in ("created_at", "run_started_at", "run_finished_at") if run[name]]
    assert times == sorted(times)


def wire_runs(arize: Caller) -> list[Any]:
    return [run for runs in arize.snapshot()["runs"].values() for run in runs]


def test_upper_satisfies_a_strict_client(arize: Caller) -> None:
    runs = wire_runs(arize)
    assert len(runs) > 40
    for run in runs:
        strictly_read(run)
        strictly_read(arize.run(run["id"]))
    experiments = {task["id"] for task in arize.tasks(type="RUN_EXPERIMENT")}
    assert all((run["task_id"] in experiments) == bool(run["experiment_id"]) for run in runs if run["run_started_at"])
    with pytest.raises(AssertionError):
        strictly_read({**runs[0], "status": runs[0]["status"].lower()})


def test_lower_is_the_old_server() -> None:
    with speaking(Wire.LOWER) as arize:
        runs, tasks = wire_runs(arize), arize.tasks(type="run_experiment")
        assert {run["status"] for run in runs} >= {"completed", "running", "pending"}
        assert not any("failure_reason" in run for run in runs)
        assert {"data_start_time" in run for run in runs} == {True, False}
        assert tasks
        assert arize.get("/v2/tasks", type="RUN_EXPERIMENT").status == 400
        assert arize.get(f"/v2/tasks/{tasks[0]['id']}/runs", status="RUNNING").status == 400
        assert arize.get(f"/v2/tasks/{tasks[0]['id']}/runs", status="running").status == 200
        assert arize.get("/v2/tasks", space_id="U3BhY2U6OTphQmNE").json["tasks"] == []
        assert "organization_id" not in arize.get("/v2/spaces").json["spaces"][0]


def test_upper_refuses_lower_case_filters(arize: Caller) -> None:
    assert arize.get("/v2/tasks", type="run_experiment").status == 400
    assert arize.get(f"/v2/tasks/{arize.tasks()[0]['id']}/runs", status="running").status == 400


def test_mixed_mixes_cases_and_leaves_things_out_but_no_identity() -> None:
    with speaking(Wire.MIXED) as arize:
        runs, task = wire_runs(arize), arize.tasks()[0]["id"]
        assert {"COMPLETED", "completed"} <= {run["status"] for run in runs}
        assert all(run["id"] and run["task_id"] and run["created_at"] for run in runs)
        assert any("num_skipped" not in run for run in runs)
        assert any(run.get("num_skipped", 0) is None for run in runs)
        assert any("shard_hint" in run for run in runs)
        assert {"." in run["created_at"] for run in runs} == {True, False}
        assert arize.runs(task, status="COMPLETED") == arize.runs(task, status="completed")
