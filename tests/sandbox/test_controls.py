"""What one may do to the simulated Arize: faults, its log, reset, its connections and its command line."""

import http.client
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def fault(arize: Caller, **members: Any) -> None:
    answer = arize.post("/sandbox/faults", members)
    assert answer.status == 201, answer.body


def received(arize: Caller, **filters: Any) -> list[Any]:
    return arize.get("/sandbox/requests", **filters).json["requests"]


def statuses(arize: Caller, count: int, path: str = "/v2/spaces") -> list[int]:
    return [arize.get(path).status for _ in range(count)]


def running_run(arize: Caller) -> str:
    return arize.add_runs(arize.tasks()[0]["id"])[0]["id"]


# Faults


def test_a_status_fault_answers_instead_of_the_work_for_its_count(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, method="post", path="/cancel", status=429, headers={"Retry-After": 7}, title="Slow down", count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.headers["Retry-After"], answer.json["title"]) == (429, "7", "Slow down")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert arize.run(run_id)["status"] == "RUNNING"
    assert arize.cancel(run_id).status == 200


def test_a_fault_can_answer_a_raw_body(arize: Caller) -> None:
    fault(arize, status=502, body="<h1>Bad gateway</h1>", count=1)
    fault(arize, status=200, body="", headers={"Content-Type": "application/json"}, count=1)
    first, second = arize.get("/v2/spaces"), arize.get("/v2/spaces")
    assert (first.status, first.headers["Content-Type"], first.body) == (502, "text/html", b"<h1>Bad gateway</h1>")
    assert (second.status, second.headers["Content-Type"], second.body) == (200, "application/json", b"")


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_a_cut_closes_the_connection_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    fault(arize, path="/cancel", cut=moment)
    with pytest.raises(http.client.RemoteDisconnected):
        arize.cancel(run_id)
    assert arize.run(run_id)["status"] == status
    assert received(arize, path="/cancel")[0]["status"] is None


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_latency_waits_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    fault(arize, path="/cancel", latency_ms=1_000, latency_at=moment)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        cancelling = pool.submit(arize.cancel, run_id)
        while not (under_way := received(arize, path="/cancel")):
            pass
        seen = arize.run(run_id)["status"]
        while moment == "after" and seen == "RUNNING" and not cancelling.done():
            seen = arize.run(run_id)["status"]
        assert under_way[0]["in_flight"]
        assert (seen, cancelling.done()) == (status, False)
        assert cancelling.result().json["status"] == "CANCELLED"
    assert time.monotonic() - began >= 1
    assert not received(arize, path="/cancel")[0]["in_flight"]


def test_a_share_is_drawn_alike_in_every_world_of_the_seed(arize: Caller) -> None:
    fault(arize, path="/v2/spaces", status=503, share=0.3)
    drawn = statuses(arize, 60)
    assert 8 <= drawn.count(503) <= 28
    assert drawn.count(200) == 60 - drawn.count(503)
    arize.post("/sandbox/reset")
    fault(arize, path="/v2/spaces", status=503, share=0.3)
    assert statuses(arize, 60) == drawn


def test_a_fault_meets_only_what_it_matches(arize: Caller) -> None:
    fault(arize, method="GET", path_regex=r"^/v2/tasks$", key="ak-support-key-2", status=503)
    support = Caller(arize.url, "ak-support-key-2")
    assert (support.get("/v2/tasks", limit=1).status, arize.get("/v2/tasks").status) == (503, 200)
    task = support.get("/v2/spaces").status
    assert task == 200
    assert support.call("DELETE", "/v2/tasks").status == 405
    assert support.get("/sandbox/faults").status == 200


def test_faults_are_listed_with_how_often_they_fired_and_removed(arize: Caller) -> None:
    faults = [{"path": "/v2/spaces", "status": 500, "count": 2}, {"status": 503, "key": "ak-full-key-1", "share": 1}]
    assert arize.post("/sandbox/faults", {"faults": faults}).json == {"added": [1, 2]}
    assert statuses(arize, 3) == [500, 500, 503]
    listed = arize.get("/sandbox/faults")
    assert [(one["n"], one["matched"], one["fired"]) for one in listed.json["faults"]] == [(1, 3, 2), (2, 1, 1)]
    assert b"ak-full-key-1" not in listed.body
    assert [one["fault"] for one in received(arize)] == [1, 1, 2]
    assert arize.call("DELETE", "/sandbox/faults").status == 200
    assert (statuses(arize, 1), arize.get("/sandbox/faults").json) == ([200], {"faults": []})


@pytest.mark.parametrize(
    "nonsense",
    [
        [],
        "text",
        {},
        {"path": "/v2"},
        {"status": 503, "colour": "red"},
        {"status": "503"},
        {"status": True},
        {"status": 99},
        {"status": 503, "cut": "after"},
        {"cut": "sometimes"},
        {"latency_ms": -1},
        {"latency_ms": 1.5},
        {"status": 503, "count": 0},
        {"status": 503, "share": 1.1},
        {"status": 503, "share": float("nan")},
        {"status": 503, "count": 1, "share": 0.5},
        {"status": 503, "path_regex": "("},
        {"status": 503, "headers": ["Retry-After"]},
        {"status": 503, "headers": {"X": "a\r\nSet-Cookie: b"}},
        {"status": 503, "headers": {"Content-Length": "0"}},
        {"latency_ms": 5, "detail": "no status"},
        {"answer": "xml"},
        {"answer": "html", "status": 502},
        {"answer": "html", "cut": "after"},
        {"answer": "html", "answer_at": "during"},
        {"answer": "html", "detail": "a page has none"},
        {"latency_ms": 5, "answer_at": "after"},
        {"hang": True},
        {"hang": "before", "cut": "before"},
        {"per_second": 0},
        {"per_second": "50"},
        {"per_second": 5, "share": 0.5},
        {"per_second": 5, "detail": "no status"},
        {"cancel": "refused"},
        {"cancel": "ignored", "cancel_takes_seconds": 5},
        {"cancel": "ignored", "status": 503},
        {"cancel": "ignored", "hang": "before"},
        {"cancel_takes_seconds": -1},
        {"cancel_takes_seconds": 5, "cut": "before"},
        {"faults": {"status": 503}},
        {"faults": [{"status": 503}, {"status": 1}]},
        b"{not json",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_nonsensical_fault_is_refused_with_a_sentence(arize: Caller, nonsense: Any) -> None:
    answer = arize.post("/sandbox/faults", nonsense)
    assert answer.status == 400
    assert re.fullmatch(r".+\.", answer.json["detail"])
    assert arize.get("/sandbox/faults").json == {"faults": []}


# The log, reset, runs, clock


def test_the_log_tells_what_came_in_but_no_key(arize: Caller) -> None:
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


def test_the_log_is_filtered_by_method_and_path(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.cancel(run_id)
    arize.run(run_id)
    assert [one["method"] for one in received(arize, path=run_id[:12])] == ["POST", "GET"]
    assert [one["path"] for one in received(arize, method="post")] == [
        f"/v2/task-runs/{run_id}/cancel".replace("=", "%3D")
    ]
    assert arize.get("/sandbox/requests", method="PUT").json == {"requests": [], "total": 3}


def test_a_reset_brings_back_the_start(arize: Caller) -> None:
    def ids() -> list[Any]:
        return [(run["id"], run["status"]) for runs in arize.snapshot()["runs"].values() for run in runs]

    start = ids()
    arize.cancel(running_run(arize))
    arize.advance(7200)
    fault(arize, path="/v2/spaces", status=503)
    assert ids() != start
    assert arize.post("/sandbox/reset").status == 200
    assert received(arize) == arize.get("/sandbox/faults").json["faults"] == []
    assert arize.get("/sandbox/clock").json["simulated_seconds"] == 0
    assert ids() == start


def test_a_run_can_be_set_and_then_stays_so(arize: Caller) -> None:
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
