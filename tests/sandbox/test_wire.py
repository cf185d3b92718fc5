"""The simulated Arize's JSON: like the newest server, like an old one, and a mixture of both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from taskruns.sandbox.server import running
from taskruns.sandbox.simulation import Settings
from taskruns.sandbox.wire import Wire

from .caller import Caller
from .strict import strictly_read


@contextmanager
def speaking(wire: Wire) -> Iterator[Caller]:
    with running(Settings(keys={"ak-full-key-1": ()}, wire=wire, tasks=20, speed=0)) as server:
        yield Caller(server.url)


@pytest.fixture
def arize() -> Iterator[Caller]:
    with speaking(Wire.UPPER) as caller:
        yield caller


def wire_runs(arize: Caller) -> list[Any]:
    return [run for runs in arize.snapshot()["runs"].values() for run in runs]


def test_wire_in_upper_case_satisfies_a_strict_client(arize: Caller) -> None:
    runs = wire_runs(arize)
    assert len(runs) > 40
    for run in runs:
        strictly_read(run)
        strictly_read(arize.run(run["id"]))
    experiments = {task["id"] for task in arize.tasks(type="RUN_EXPERIMENT")}
    assert all((run["task_id"] in experiments) == bool(run["experiment_id"]) for run in runs if run["run_started_at"])
    with pytest.raises(AssertionError):
        strictly_read({**runs[0], "status": runs[0]["status"].lower()})


def test_wire_in_lower_case_behaves_like_the_old_server() -> None:
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


def test_wire_in_upper_case_rejects_lower_case_filters(arize: Caller) -> None:
    assert arize.get("/v2/tasks", type="run_experiment").status == 400
    assert arize.get(f"/v2/tasks/{arize.tasks()[0]['id']}/runs", status="running").status == 400


def test_mixed_wire_varies_case_and_members_but_keeps_ids() -> None:
    with speaking(Wire.MIXED) as arize:
        runs, task = wire_runs(arize), arize.tasks()[0]["id"]
        assert {"COMPLETED", "completed"} <= {run["status"] for run in runs}
        assert all(run["id"] and run["task_id"] and run["created_at"] for run in runs)
        assert any("num_skipped" not in run for run in runs)
        assert any(run.get("num_skipped", 0) is None for run in runs)
        assert any("shard_hint" in run for run in runs)
        assert {"." in run["created_at"] for run in runs} == {True, False}
        assert arize.runs(task, status="COMPLETED") == arize.runs(task, status="completed")
