"""The simulated Arize under /v2: lists and filters, errors, access, cancels."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taskruns.sandbox.server import running

from .caller import Caller, encoded
from .frozen import settings


@pytest.fixture
def arize() -> Iterator[Caller]:
    """A frozen world in upper case, called with the key that sees everything."""
    with running(settings()) as server:
        yield Caller(server.url)


def some_task(arize: Caller) -> Any:
    return arize.tasks()[0]


# Lists


def test_paging_returns_every_object_once(arize: Caller) -> None:
    task = some_task(arize)["id"]
    arize.add_runs(task, count=120, status="completed")
    for limit in (1, 7, 50, 100):
        runs = arize.runs(task, limit=limit)
        assert len(runs) > 120
        assert [run["id"] for run in runs] == list(dict.fromkeys(run["id"] for run in runs))
        assert runs == arize.runs(task)
    assert len(arize.get("/v2/tasks").json["tasks"]) == 12
    assert [task["id"] for task in arize.tasks(limit=5)] == [task["id"] for task in arize.tasks()]
    assert len(arize.pages("/v2/spaces", "spaces", limit=1)) == 4


def test_runs_are_listed_newest_first_50_per_page(arize: Caller) -> None:
    task = some_task(arize)["id"]
    arize.add_runs(task, count=60)
    page = arize.get(f"/v2/tasks/{task}/runs").json
    created = [run["created_at"] for run in page["task_runs"]]
    assert len(created) == len(set(created)) == 50
    assert created == sorted(created, reverse=True)


def test_new_runs_do_not_shift_pages(arize: Caller) -> None:
    task = some_task(arize)["id"]
    arize.add_runs(task, count=20)
    before = arize.runs(task)
    first = arize.get(f"/v2/tasks/{task}/runs", limit=10).json
    new = arize.add_runs(task, count=15)
    cursor = first["pagination"]["next_cursor"]
    assert first["task_runs"] + arize.runs(task, limit=10, cursor=cursor) == before
    assert [run["id"] for run in arize.runs(task)[:15]] == [run["id"] for run in reversed(new)]


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "", "1.5", "²", " 5"])
def test_limit_outside_1_to_100_is_rejected(arize: Caller, limit: str) -> None:
    for path in ("/v2/tasks", "/v2/spaces", f"/v2/tasks/{some_task(arize)['id']}/runs"):
        assert arize.get(path, limit=limit).status == 400
        assert arize.get(path, limit=100).status == 200


@pytest.mark.parametrize("cursor", ["", "nonsense", "e30=", encoded("[1]"), encoded('{"createdAt": 1, "id": true}')])
def test_forged_cursor_is_rejected(arize: Caller, cursor: str) -> None:
    assert arize.get("/v2/tasks", cursor=cursor).json["detail"] == "cursor is invalid."


def test_each_task_filter_narrows_the_list(arize: Caller) -> None:
    everything = arize.tasks()
    space = arize.get("/v2/spaces", name="SEARCH").json["spaces"]
    assert [one["name"] for one in space] == ["search-ranking"]
    in_space = arize.tasks(space_id=space[0]["id"])
    assert in_space == arize.tasks(space_name="Search-R")
    assert len(in_space) == 3
    assert arize.tasks(name="EVALUATION") == [task for task in everything if "evaluation" in task["name"].lower()]
    for member, filter_name in (("project_id", "project_id"), ("dataset_id", "dataset_id"), ("type", "type")):
        wanted = next(task[member] for task in everything if task[member])
        found = arize.tasks(**{filter_name: wanted})
        assert found == [task for task in everything if task[member] == wanted] != everything
    assert {task["type"] for task in everything} == {"TEMPLATE_EVALUATION", "CODE_EVALUATION", "RUN_EXPERIMENT"}


def test_the_status_filter_takes_one_known_value(arize: Caller) -> None:
    task = some_task(arize)["id"]
    for status in ("pending", "running", "completed", "failed", "cancelled"):
        added = arize.add_runs(task, status=status, count=2)
        found = arize.runs(task, status=status.upper())
        assert {run["id"] for run in added} <= {run["id"] for run in found}
        assert {run["status"] for run in found} == {status.upper()}
    assert arize.get(f"/v2/tasks/{task}/runs", status=["RUNNING", "FAILED"]).status == 400
    assert arize.get(f"/v2/tasks/{task}/runs", status="STOPPED").status == 400


# Errors and access


def test_every_error_is_a_problem_document(arize: Caller) -> None:
    answer = arize.get(f"/v2/task-runs/{encoded('TaskRun:5:abcd')}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json.pop("request_id").startswith("req_")
    assert {name: value for name, value in answer.json.items() if name != "request_id"} == {
        "type": "https://arize.com/docs/ax/rest-reference/errors#resource-not-found",
        "title": "Resource not found",
        "status": 404,
        "detail": "The task run does not exist or is not readable with this key.",
        "instance": f"/v2/task-runs/{encoded('TaskRun:5:abcd')}",
    }


def test_unknown_key_gets_401(arize: Caller) -> None:
    known = {"Authorization": "Bearer ak-full-key-1"}
    assert arize.call("GET", "/v2/spaces", headers=known).status == 200
    for value in ("ak-full-key-1", "Bearer", "Bearer ak-other", "Basic ak-full-key-1", "bearer ak-full-key-1"):
        answer = arize.call("GET", "/v2/spaces", headers={"Authorization": value})
        assert (answer.status, answer.json["title"]) == (401, "Authentication required"), value
    assert Caller(arize.url, key=None).get("/v2/tasks").status == 401


def test_malformed_id_gets_400_and_missing_id_404(arize: Caller) -> None:
    for path in ("spaces", "tasks", "task-runs", "users"):
        for bad in (
            "nonsense",
            "12345",
            encoded("TaskRun"),
            encoded("Entity:12345"),
            encoded("A:1:ab").rstrip("=")[:-1],
        ):
            assert arize.get(f"/v2/{path}/{bad}").status == 400, (path, bad)
        assert arize.get(f"/v2/{path}/{encoded('OnlineTask:999999:aBcD')}").status == 404
    assert arize.get("/v2/tasks", space_id="nonsense").status == 400
    assert arize.get("/v2/tasks", project_id=encoded("Model:99999:aBcD")).status == 404
    assert arize.get("/v2/tasks", name="x" * 256).status == 400
    assert arize.get("/v2/tasks", name="x" * 255).json["tasks"] == []


def test_unknown_routes_get_404_and_methods_405(arize: Caller) -> None:
    for path in ("/", "/v2", "/v2/nothing", "/v3/tasks", "/v2/tasks//runs", "/v2/tasks/a/b/c"):
        assert arize.get(path).status == 404, path
    answer = arize.call("DELETE", f"/v2/tasks/{some_task(arize)['id']}")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_key_sees_only_its_spaces(arize: Caller) -> None:
    support, pair = Caller(arize.url, "ak-support-key-2"), Caller(arize.url, "ak-pair-key-3")
    assert [space["name"] for space in support.get("/v2/spaces").json["spaces"]] == ["support-bot"]
    mine, theirs = support.tasks(), pair.tasks()
    assert (len(mine), len(theirs), len(arize.tasks())) == (3, 6, 12)
    run = arize.add_runs(theirs[0]["id"])[0]["id"]
    space = pair.get("/v2/spaces").json["spaces"][0]["id"]
    for path in (f"tasks/{theirs[0]['id']}", f"tasks/{theirs[0]['id']}/runs", f"task-runs/{run}", f"spaces/{space}"):
        assert (pair.get(f"/v2/{path}").status, support.get(f"/v2/{path}").status) == (200, 404), path
    assert support.get("/v2/tasks", space_id=space).status == 404
    assert support.cancel(run).status == 404
    assert arize.run(run)["status"] == "RUNNING"


def test_creators_can_be_looked_up(arize: Caller) -> None:
    user = arize.get(f"/v2/users/{some_task(arize)['created_by_user_id']}").json
    assert user["status"] == "ACTIVE"
    assert user["name"]
    assert user["email"].endswith("@example.com")


# Cancel


@pytest.mark.parametrize("status", ["pending", "running"])
def test_cancel_ends_an_active_run_and_keeps_its_counts(arize: Caller, status: str) -> None:
    run_id = arize.add_runs(some_task(arize)["id"], status=status)[0]["id"]
    arize.advance(15)
    before = arize.run(run_id)
    answer = arize.cancel(run_id)
    assert answer.status == 200
    assert answer.json == arize.run(run_id)
    assert (answer.json["status"], answer.json["run_finished_at"] is None) == ("CANCELLED", False)
    assert answer.json["num_successes"] == before["num_successes"]
    assert (before["num_successes"] > 0) == (status == "running")
    arize.advance(3600)
    assert arize.run(run_id) == answer.json


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_finished_run_cannot_be_cancelled(arize: Caller, status: str) -> None:
    run = arize.add_runs(some_task(arize)["id"], status=status)[0]
    answer = arize.cancel(run["id"])
    assert (answer.status, answer.json["detail"]) == (400, f"cannot cancel a run with status '{status}'")
    assert arize.run(run["id"]) == run


def test_one_of_50_parallel_cancels_succeeds(arize: Caller) -> None:
    run_id = arize.add_runs(some_task(arize)["id"])[0]["id"]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: arize.cancel(run_id).status, range(50)))
    assert Counter(answers) == {200: 1, 400: 49}
