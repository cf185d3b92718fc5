"""The controls of the simulated Arize: request log, reset, runs on demand, clock."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from taskruns.sandbox.server import running
from taskruns.sandbox.simulation import Settings

from .caller import Caller

KEYS = {"ak-full-key-1": (), "ak-support-key-2": ("support-bot",)}


@pytest.fixture
def arize() -> Iterator[Caller]:
    with running(Settings(keys=KEYS, tasks=4, speed=0)) as server:
        yield Caller(server.url)


def received(arize: Caller, **filters: Any) -> list[Any]:
    return arize.get("/sandbox/requests", **filters).json["requests"]


def running_run(arize: Caller) -> str:
    return arize.add_runs(arize.tasks()[0]["id"])[0]["id"]


def test_request_log_contains_no_key(arize: Caller) -> None:
    arize.call("GET", "/v2/tasks", limit=2, name="ak-full-key-1", headers={"X-Note": "of ak-full-key-1", "X-Test": "1"})
    arize.call("GET", "/v2/spaces", headers={"Authorization": "ak-raw-and-unknown"})
    Caller(arize.url, "ak-unknown-key-9").get("/v2/tasks/ak-unknown-key-9")
    answer = arize.get("/sandbox/requests")
    first, raw, unknown = answer.json["requests"]
    assert (first["n"], first["method"], first["path"], first["status"]) == (1, "GET", "/v2/tasks", 200)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["at"])
    assert (first["headers"]["Authorization"], first["headers"]["X-Test"]) == ("Bearer …-1", "1")
    assert first["query"].startswith("limit=2&name=")
    assert (raw["headers"]["Authorization"], raw["status"]) == ("…wn", 401)
    assert (unknown["headers"]["Authorization"], unknown["status"]) == ("Bearer …-9", 401)
    for secret in (b"ak-full-key-1", b"ak-raw", b"ak-unknown-key-9"):
        assert secret not in answer.body
    assert answer.json["total"] == 3


def test_request_log_is_filtered_by_method_and_path(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.cancel(run_id)
    arize.run(run_id)
    assert [one["method"] for one in received(arize, path=run_id[:12])] == ["POST", "GET"]
    assert [one["path"] for one in received(arize, method="post")] == [
        f"/v2/task-runs/{run_id}/cancel".replace("=", "%3D")
    ]
    assert arize.get("/sandbox/requests", method="PUT").json == {"requests": [], "total": 3}


def test_reset_restores_the_start(arize: Caller) -> None:
    def ids() -> list[Any]:
        return [(run["id"], run["status"]) for runs in arize.snapshot()["runs"].values() for run in runs]

    start = ids()
    arize.cancel(running_run(arize))
    arize.advance(7200)
    arize.fault(path="/v2/spaces", status=503)
    assert ids() != start
    assert arize.post("/sandbox/reset").status == 200
    assert received(arize) == arize.get("/sandbox/faults").json["faults"] == []
    assert arize.get("/sandbox/clock").json["simulated_seconds"] == 0
    assert ids() == start


def test_run_set_by_a_control_stays_as_set(arize: Caller) -> None:
    run_id = running_run(arize)
    for status in ("pending", "running", "failed", "completed", "cancelled"):
        answer = arize.call("PATCH", f"/sandbox/runs/{run_id}", body={"status": status, "failure_reason": "Quota"})
        assert answer.json == arize.run(run_id)
        assert (answer.json["status"], answer.json["failure_reason"]) == (status.upper(), "Quota")
        assert (answer.json["run_finished_at"] is None) == (status in {"pending", "running"})
        arize.advance(3600)
        assert arize.run(run_id)["status"] == status.upper()
    assert arize.call("PATCH", "/sandbox/runs/unknown", body={"status": "failed"}).status == 404
    assert arize.call("PATCH", f"/sandbox/runs/{run_id}", body={"status": "stopped"}).status == 400


def test_runs_are_added_by_a_tasks_id_or_name(arize: Caller) -> None:
    task = arize.tasks()[0]
    by_id, by_name = arize.add_runs(task["id"], count=3), arize.add_runs(task["name"], status="PENDING")
    assert {run["task_id"] for run in by_id + by_name} == {task["id"]}
    assert [run["status"] for run in by_id + by_name] == ["RUNNING"] * 3 + ["PENDING"]
    assert [run["id"] for run in arize.runs(task["id"])[:4]] == [run["id"] for run in reversed(by_id + by_name)]
    for wrong in ({"task": "nobody"}, {}, {"task": task["id"], "count": 1001}, {"task": task["id"], "status": "x"}):
        assert arize.post("/sandbox/runs", wrong).status == 400
    assert arize.post("/sandbox/clock", {"advance_seconds": -1}).status == 400
    assert arize.post("/sandbox/clock", {}).status == 400
    assert arize.get("/sandbox/nothing").status == 404
    assert arize.get("/sandbox/reset").headers["Allow"] == "POST"


def test_the_inbox_shows_messages_as_text(arize: Caller) -> None:
    assert b"Nothing yet" in arize.get("/sandbox/inbox").body
    assert arize.post("/sandbox/inbox", {"text": "*Failed* &lt;script&gt; <b>"}).status == 200
    arize.post("/sandbox/inbox", {"type": "run.failed", "data": {"team": "ops"}})
    page = arize.get("/sandbox/inbox")
    assert page.headers["Content-Type"].startswith("text/html")
    text = page.body.decode()
    assert "*Failed* &lt;script&gt; &lt;b&gt;" in text
    assert text.index("run.failed") < text.index("*Failed*"), "the newest first"
    assert "<script>" not in text
    assert arize.post("/sandbox/inbox", b"{").status == 400
