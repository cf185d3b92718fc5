"""Triggering runs in the simulated Arize: what each kind of task accepts and rejects."""

import base64
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import NoAnswer, RateLimited
from taskruns.arize.triggers import EvaluationTrigger, ExperimentTrigger
from taskruns.arize.wire import RunStatus
from taskruns.sandbox.server import running
from taskruns.sandbox.simulation import Settings
from taskruns.sandbox.wire import Wire
from tests.sandbox.strict import strictly_read

from .caller import Answered, Caller

EPOCH = datetime(2026, 9, 1, 12, tzinfo=UTC)
KEYS = {"ak-full-key-1": (), "ak-support-key-2": ("support-bot",)}
WINDOW = {"data_start_time": "2026-08-10T00:00:00.000Z", "data_end_time": "2026-09-01T12:00:00.000Z"}
EXAMPLE = base64.b64encode(b"Example:1:ab").decode()


@pytest.fixture
def arize() -> Iterator[Caller]:
    with running(Settings(keys=KEYS, tasks=20, speed=0, epoch=EPOCH)) as server:
        yield Caller(server.url)


def task_of(arize: Caller, kind: str) -> Any:
    """A task on a project, on a dataset, or of experiments."""
    tasks = arize.tasks(limit=100)
    if kind == "experiment":
        return next(task for task in tasks if task["type"].upper() == "RUN_EXPERIMENT")
    evaluations = [task for task in tasks if task["type"].upper() != "RUN_EXPERIMENT"]
    return next(task for task in evaluations if task.get(f"{kind}_id"))


def trigger(arize: Caller, task: Any, body: Any = None) -> Answered:
    return arize.post(f"/v2/tasks/{quote(task['id'], safe='')}/trigger", body)


def test_triggered_evaluation_runs_like_any_other(arize: Caller) -> None:
    task = task_of(arize, "project")
    answer = trigger(arize, task, {**WINDOW, "max_spans": 500, "override_evaluations": True})
    run = answer.json
    assert answer.status == 201
    strictly_read(run)
    assert (run["status"], run["task_id"], run["run_started_at"]) == ("PENDING", task["id"], None)
    assert {name: run[name] for name in WINDOW} == WINDOW
    assert arize.get(f"/v2/users/{run['created_by_user_id']}").json["name"] == "Eval Pipeline (service key)"
    assert arize.runs(task["id"])[0] == arize.run(run["id"]) == run
    assert task_of(arize, "project")["last_run_at"] == run["created_at"]
    arize.advance(30)
    assert arize.run(run["id"])["status"] == "RUNNING"
    arize.advance(600)
    assert arize.run(run["id"])["status"] == "COMPLETED"


def test_triggered_run_can_be_cancelled(arize: Caller) -> None:
    run = trigger(arize, task_of(arize, "project"), WINDOW).json
    assert arize.cancel(run["id"]).json["status"] == "CANCELLED"


def test_missing_window_starts_at_the_last_run(arize: Caller) -> None:
    task = task_of(arize, "project")
    for body in (None, {}):
        last = task_of(arize, "project")["last_run_at"]
        arize.advance(5)
        run = trigger(arize, task, body).json
        assert (run["data_start_time"], run["data_end_time"]) == (last, run["created_at"])


def test_dataset_task_takes_experiments_but_no_window(arize: Caller) -> None:
    task = task_of(arize, "dataset")
    run = trigger(arize, task, {"experiment_ids": [EXAMPLE], "max_spans": 1}).json
    assert (run["status"], run["data_start_time"], run["data_end_time"]) == ("PENDING", None, None)


def test_experiment_name_is_unique_in_its_dataset(arize: Caller) -> None:
    task, evaluation = task_of(arize, "experiment"), task_of(arize, "dataset")
    whole = {
        "experiment_name": "Prompt 12",
        "dataset_version_id": EXAMPLE,
        "max_examples": 10,
        "query_filter": "input is not null",
        "tracing_metadata": {"team": "north"},
        "evaluation_task_ids": [evaluation["id"]],
    }
    run = trigger(arize, task, whole).json
    assert (run["status"], run["experiment_id"]) == ("PENDING", None)
    again = trigger(arize, task, whole)
    assert (again.status, again.json["title"]) == (409, "Resource conflict")
    assert trigger(arize, task, whole | {"experiment_name": "Prompt 13"}).status == 201
    arize.advance(30)
    assert arize.run(run["id"])["experiment_id"]


def test_one_of_20_parallel_experiments_with_one_name_starts(arize: Caller) -> None:
    task = task_of(arize, "experiment")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: trigger(arize, task, {"experiment_name": "One"}).status, range(20)))
    assert Counter(answers) == {201: 1, 409: 19}


REFUSED: list[tuple[str, Any, int]] = [
    ("project", b"{", 400),
    ("project", b"\xff\xfe", 400),
    ("project", [], 400),
    ("project", "x", 400),
    ("project", {"max_span": 1}, 400),
    ("project", {"experiment_name": "x"}, 400),
    ("project", {"experiment_ids": [EXAMPLE]}, 400),
    ("project", {"data_start_time": WINDOW["data_start_time"]}, 400),
    ("project", {"data_end_time": WINDOW["data_end_time"]}, 400),
    ("project", WINDOW | {"data_start_time": "yesterday"}, 400),
    ("project", WINDOW | {"data_start_time": 5}, 400),
    ("project", WINDOW | {"data_start_time": "2026-08-02T11:59:59Z"}, 400),
    ("project", WINDOW | {"data_start_time": WINDOW["data_end_time"]}, 400),
    ("project", WINDOW | {"max_spans": 0}, 400),
    ("project", WINDOW | {"max_spans": "10"}, 400),
    ("project", WINDOW | {"override_evaluations": "yes"}, 400),
    ("dataset", WINDOW, 400),
    ("dataset", {"experiment_ids": "x"}, 400),
    ("dataset", {"experiment_ids": ["nonsense"]}, 400),
    ("dataset", {"query_filter": "x"}, 400),
    ("experiment", None, 400),
    ("experiment", {"experiment_name": ""}, 400),
    ("experiment", {"experiment_name": 'a "b"'}, 400),
    ("experiment", {"experiment_name": "a\\b"}, 400),
    ("experiment", {"experiment_name": "x" * 256}, 400),
    ("experiment", {"experiment_name": "x", "max_spans": 5}, 400),
    ("experiment", {"experiment_name": "x", "max_examples": 0}, 400),
    ("experiment", {"experiment_name": "x", "tracing_metadata": ["a"]}, 400),
    ("experiment", {"experiment_name": "x", "dataset_version_id": "nonsense"}, 400),
    ("experiment", {"experiment_name": "x", "example_ids": [EXAMPLE], "max_examples": 5}, 422),
    ("experiment", {"experiment_name": "x", "evaluation_task_ids": [EXAMPLE]}, 422),
]


@pytest.mark.parametrize(("kind", "body", "status"), REFUSED)
def test_invalid_trigger_is_rejected(arize: Caller, kind: str, body: Any, status: int) -> None:
    task = task_of(arize, kind)
    before = arize.snapshot()
    answer = trigger(arize, task, body)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["detail"].endswith(".")
    assert arize.snapshot() == before


def test_key_triggers_runs_in_its_spaces_only(arize: Caller) -> None:
    support = Caller(arize.url, "ak-support-key-2")
    mine = {task["id"] for task in support.tasks()}
    for task in arize.tasks():
        if task["type"] == "RUN_EXPERIMENT":
            continue
        assert trigger(support, task).status == (201 if task["id"] in mine else 404)
    assert trigger(Caller(arize.url, None), task_of(arize, "project")).status == 401
    assert arize.post("/v2/tasks/nonsense/trigger").status == 400
    assert arize.get(f"/v2/tasks/{task_of(arize, 'project')['id']}/trigger").status == 405


@pytest.mark.parametrize("wire", Wire)
def test_our_client_starts_runs_on_every_wire(wire: Wire) -> None:
    with running(Settings(keys=KEYS, wire=wire, tasks=20, speed=0, epoch=EPOCH)) as server:
        arize = Caller(server.url)
        with ArizeClient(server.url, "ak-full-key-1") as client:
            window = (datetime(2026, 8, 31, tzinfo=UTC), EPOCH)
            for kind, wanted in (
                ("project", EvaluationTrigger(window)),
                ("dataset", EvaluationTrigger()),
                ("experiment", ExperimentTrigger("Prompt 12", max_examples=5)),
            ):
                task = task_of(arize, kind)
                run = client.trigger_run(task["id"], wanted)
                assert (run.task_id, run.status) == (task["id"], RunStatus.PENDING)
                assert client.list_runs(task["id"], limit=1).items[0].id == run.id


def test_faults_apply_to_triggers(arize: Caller) -> None:
    task = task_of(arize, "project")
    before = len(arize.runs(task["id"]))
    limited = {"path": "/trigger", "status": 429, "headers": {"Retry-After": "7"}, "count": 1}
    lost = {"path": "/trigger", "method": "post", "cut": "after", "count": 1}
    assert arize.post("/sandbox/faults", {"faults": [limited, lost]}).status == 201
    with ArizeClient(arize.url, "ak-full-key-1") as client:
        with pytest.raises(RateLimited, match="7 seconds"):
            client.trigger_run(task["id"], EvaluationTrigger())
        assert len(arize.runs(task["id"])) == before
        with pytest.raises(NoAnswer):
            client.trigger_run(task["id"], EvaluationTrigger())
    assert len(arize.runs(task["id"])) == before + 1
