"""Lists and single objects: each client shows the same through the panel as at Arize."""

import json

import pytest

from tests.processes import wait_for
from tests.real_clients.clients import AnyClient, Outcome
from tests.real_clients.panel import UNKNOWN_RUN, Panel, plain


def same(panel: Panel, client: AnyClient, step: str, **arguments: object) -> Outcome:
    direct, through = panel.both(client, step, **arguments)
    assert through == direct
    return direct


def test_spaces_are_listed_alike(panel: Panel, client: AnyClient):
    shown = same(panel, client, "spaces")
    assert "search-ranking" in json.dumps(shown["result"])


def test_tasks_are_listed_alike(panel: Panel, client: AnyClient):
    shown = same(panel, client, "tasks", limit=7)
    ids = [task["id"] for task in panel.stack.arize.tasks(limit=100)]
    is_first_page = client.name in {"ax", "airflow"}
    assert [one for one in ids if one in json.dumps(shown)] == (ids[:7] if is_first_page else ids)


def test_a_task_is_shown_alike(panel: Panel, client: AnyClient):
    task = panel.task()
    assert task["name"] in json.dumps(same(panel, client, "task", task=task["id"]))


@pytest.mark.parametrize("name", ["sdk", "js"])
def test_a_task_is_found_by_its_name(panel: Panel, clients: dict[str, AnyClient], name: str):
    task = panel.task()
    spaces = panel.stack.arize.pages("/v2/spaces", "spaces")
    in_space = {space["name"]: panel.stack.arize.tasks(space_id=space["id"]) for space in spaces}
    (space,) = [space for space, tasks in in_space.items() if task["id"] in {one["id"] for one in tasks}]
    assert task["id"] in json.dumps(same(panel, clients[name], "task", task=task["name"], space=space))


@pytest.mark.parametrize("name", ["sdk", "js"])
def test_runs_are_paged_to_the_end(panel: Panel, clients: dict[str, AnyClient], name: str):
    task = panel.task()["id"]
    ids = [run["id"] for run in panel.stack.arize.runs(task)]
    result = same(panel, clients[name], "runs", task=task, limit=4)["result"]
    assert [run["id"] for run in result.get("task_runs", result.get("data"))] == ids
    assert result["pages"] == -(-len(ids) // 4) > 1


@pytest.mark.parametrize("name", ["ax", "airflow"])
def test_the_first_runs_are_listed_alike(panel: Panel, clients: dict[str, AnyClient], name: str):
    task = panel.task()["id"]
    shown = json.dumps(same(panel, clients[name], "runs", task=task, limit=4))
    assert [run["id"] for run in panel.stack.arize.runs(task) if run["id"] in shown] == [
        run["id"] for run in panel.stack.arize.runs(task)[:4]
    ]


def test_a_table_of_ax_looks_alike(panel: Panel, clients: dict[str, AnyClient]):
    shown = same(panel, clients["ax"], "runs_table", task=panel.task()["id"], limit=5)
    assert "run_started_at" in shown["result"]


@pytest.mark.parametrize("name", ["sdk", "js"])
def test_runs_are_filtered_by_status_alike(panel: Panel, clients: dict[str, AnyClient], name: str):
    task = panel.task()["id"]
    shown = same(panel, clients[name], "runs", task=task, limit=50, status="FAILED")
    assert "COMPLETED" not in json.dumps(shown)
    assert shown["result"]["pages"] >= 1


def test_a_run_is_shown_alike(panel: Panel, client: AnyClient):
    (run,) = panel.runs("completed")
    assert run in json.dumps(same(panel, client, "run", run=run))


def test_an_unknown_run_is_not_found_alike(panel: Panel, client: AnyClient):
    error = same(panel, client, "run", run=UNKNOWN_RUN)["error"]
    assert "does not exist or is not readable" in json.dumps(error)


def test_a_malformed_id_is_refused_alike(panel: Panel, client: AnyClient):
    error = same(panel, client, "run", run="no-such-run")["error"]
    assert "not a valid identifier" in json.dumps(error)


@pytest.mark.parametrize("name", ["sdk", "ax", "js"])
def test_waiting_ends_when_the_run_does(panel: Panel, clients: dict[str, AnyClient], name: str):
    outcomes = []
    for target in (panel.direct, panel.through(panel.shared_token())):
        (run,) = panel.runs("running")
        wait = clients[name].begin(target, "wait", run=run, timeout=60)
        wait_for(lambda run=run: panel.reads_of(run) > 1, "the client's second look", within=40)
        panel.stack.arize.call("PATCH", f"/sandbox/runs/{run}", body={"status": "completed"})
        outcomes.append(plain(wait(), run))
    assert outcomes[0] == outcomes[1]
    assert "COMPLETED" in json.dumps(outcomes[0]["result"])


@pytest.mark.parametrize("name", ["sdk", "ax", "js"])
def test_waiting_too_long_fails_alike(panel: Panel, clients: dict[str, AnyClient], name: str):
    (run,) = panel.runs("running")
    error = same(panel, clients[name], "wait", run=run, timeout=1)["error"]
    assert "RUNNING" in json.dumps(error)
