"""Injected faults: their answers, whether the work is done, which requests they match and how often."""

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taskruns.sandbox.failures import RateLimit
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


def statuses(arize: Caller, count: int, path: str = "/v2/spaces") -> list[int]:
    return [arize.get(path).status for _ in range(count)]


def running_run(arize: Caller) -> str:
    return arize.add_runs(arize.tasks()[0]["id"])[0]["id"]


def test_status_fault_replaces_the_work_count_times(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(method="post", path="/cancel", status=429, headers={"Retry-After": 7}, title="Slow down", count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.headers["Retry-After"], answer.json["title"]) == (429, "7", "Slow down")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert arize.run(run_id)["status"] == "RUNNING"
    assert arize.cancel(run_id).status == 200


def test_a_fault_can_answer_with_a_raw_body(arize: Caller) -> None:
    arize.fault(status=502, body="<h1>Bad gateway</h1>", count=1)
    arize.fault(status=200, body="", headers={"Content-Type": "application/json"}, count=1)
    first, second = arize.get("/v2/spaces"), arize.get("/v2/spaces")
    assert (first.status, first.headers["Content-Type"], first.body) == (502, "text/html", b"<h1>Bad gateway</h1>")
    assert (second.status, second.headers["Content-Type"], second.body) == (200, "application/json", b"")


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_cut_closes_the_connection_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    arize.fault(path="/cancel", cut=moment)
    with pytest.raises(http.client.RemoteDisconnected):
        arize.cancel(run_id)
    assert arize.run(run_id)["status"] == status
    assert received(arize, path="/cancel")[0]["status"] is None


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_latency_waits_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    arize.fault(path="/cancel", latency_ms=1_000, latency_at=moment)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        cancelling = pool.submit(arize.cancel, run_id)
        while not (in_progress := received(arize, path="/cancel")):
            pass
        seen = arize.run(run_id)["status"]
        while moment == "after" and seen == "RUNNING" and not cancelling.done():
            seen = arize.run(run_id)["status"]
        assert in_progress[0]["in_flight"]
        assert (seen, cancelling.done()) == (status, False)
        assert cancelling.result().json["status"] == "CANCELLED"
    assert time.monotonic() - began >= 1
    assert not received(arize, path="/cancel")[0]["in_flight"]


def test_share_depends_only_on_the_seed(arize: Caller) -> None:
    arize.fault(path="/v2/spaces", status=503, share=0.3)
    drawn = statuses(arize, 60)
    assert 8 <= drawn.count(503) <= 28
    assert drawn.count(200) == 60 - drawn.count(503)
    arize.post("/sandbox/reset")
    arize.fault(path="/v2/spaces", status=503, share=0.3)
    assert statuses(arize, 60) == drawn


def test_fault_applies_only_to_matching_requests(arize: Caller) -> None:
    arize.fault(method="GET", path_regex=r"^/v2/tasks$", key="ak-support-key-2", status=503)
    support = Caller(arize.url, "ak-support-key-2")
    assert (support.get("/v2/tasks", limit=1).status, arize.get("/v2/tasks").status) == (503, 200)
    task = support.get("/v2/spaces").status
    assert task == 200
    assert support.call("DELETE", "/v2/tasks").status == 405
    assert support.get("/sandbox/faults").status == 200


def test_faults_can_be_listed_with_counts_and_removed(arize: Caller) -> None:
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
def test_invalid_fault_is_rejected_with_an_explanation(arize: Caller, nonsense: Any) -> None:
    answer = arize.post("/sandbox/faults", nonsense)
    assert answer.status == 400
    assert re.fullmatch(r".+\.", answer.json["detail"])
    assert arize.get("/sandbox/faults").json == {"faults": []}


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_html_answer_comes_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    arize.fault(path="/cancel", answer="html", answer_at=moment, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html")
    assert b"<h1>502 Bad Gateway</h1>" in answer.body
    assert arize.run(run_id)["status"] == status


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_json_is_truncated_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    arize.fault(path="/cancel", answer="malformed", answer_at=moment, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body.startswith(b'{"id": "')
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)
    assert arize.run(run_id)["status"] == status


def test_error_can_hide_completed_work(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(path="/cancel", status=503, answer_at="after")
    assert (arize.cancel(run_id).status, arize.run(run_id)["status"]) == (503, "CANCELLED")


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_hang_keeps_the_connection_open(moment: str, status: str) -> None:
    with running(Settings(keys=KEYS, tasks=1, speed=0)) as server, ThreadPoolExecutor(1) as pool:
        arize = Caller(server.url)
        run_id = running_run(arize)
        arize.fault(path="/cancel", hang=moment)
        waiting = pool.submit(arize.cancel, run_id)
        while not (received := arize.get("/sandbox/requests", path="/cancel").json["requests"]):
            pass
        while moment == "after" and arize.run(run_id)["status"] == "RUNNING":
            pass
        assert (received[0]["in_flight"], waiting.done(), arize.run(run_id)["status"]) == (True, False, status)
        server.stop()  # otherwise the hang lasts ten minutes
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            waiting.result(timeout=10)


def test_rate_limit_refuses_fast_requests(arize: Caller) -> None:
    arize.fault(method="GET", path="/v2/spaces", per_second=0.01)
    first, second = arize.get("/v2/spaces"), arize.get("/v2/spaces")
    assert (first.status, second.status, second.headers["Retry-After"]) == (200, 429, "100")
    assert second.headers["Content-Type"] == "application/problem+json"
    assert second.json["detail"] == "More than 0.01 requests per second."
    assert arize.get("/v2/tasks").status == 200
    (listed,) = arize.get("/sandbox/faults").json["faults"]
    assert (listed["matched"], listed["fired"]) == (2, 1)


def test_requests_above_a_rate_can_get_another_fault(arize: Caller) -> None:
    slow_down = {"path": "/v2/spaces", "per_second": 0.01, "status": 503, "count": 1}
    arize.post("/sandbox/faults", {"faults": [slow_down, {"path": "/v2/spaces", "status": 500, "count": 1}]})
    assert [arize.get("/v2/spaces").status for _ in range(3)] == [500, 503, 200]


def test_rate_limit_allows_a_steady_rate_and_bounds_bursts() -> None:
    steady = RateLimit(50)
    assert all(steady.allows(1_000 + turn / 50) for turn in range(500))
    burst = RateLimit(50)
    through = [burst.allows(1_000 + turn / 1_000) for turn in range(3_000)]
    assert all(through[:50])
    assert not through[60]
    assert 195 <= sum(through) <= 200  # a burst of 50, then 50 per second
    assert RateLimit(0.5).allows(7)


def test_the_rate_is_counted_over_all_threads(arize: Caller) -> None:
    arize.fault(path="/v2/spaces", per_second=0.01)
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return arize.get("/v2/spaces").status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == [200] + [429] * 7


def test_cancel_can_be_slow(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(cancel_takes_seconds=30, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.json["status"], answer.json["run_finished_at"]) == (200, "RUNNING", None)
    arize.advance(29)
    assert arize.run(run_id)["status"] == "RUNNING"
    arize.advance(2)
    ended = arize.run(run_id)
    assert ended["status"] == "CANCELLED"
    arize.advance(600)
    assert arize.run(run_id) == ended
    assert arize.cancel(run_id).status == 400


def test_run_may_finish_before_its_cancel_takes_effect(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(cancel_takes_seconds=7_200, count=1)
    assert arize.cancel(run_id).status == 200
    arize.advance(3_600)
    assert arize.run(run_id)["status"] == "COMPLETED"
    arize.advance(7_200)
    assert arize.run(run_id)["status"] == "COMPLETED"


@pytest.mark.parametrize(("effect", "answered"), [("ignored", "RUNNING"), ("only_claimed", "CANCELLED")])
def test_cancel_can_have_no_effect(arize: Caller, effect: str, answered: str) -> None:
    run_id = running_run(arize)
    arize.fault(cancel=effect, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.json["status"], arize.run(run_id)["status"]) == (200, answered, "RUNNING")
    arize.advance(3_600)
    assert arize.run(run_id)["status"] == "COMPLETED"


def test_cancel_fault_matches_cancels_only(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(cancel="ignored", count=1)
    arize.run(run_id)
    arize.tasks()
    assert arize.get("/sandbox/faults").json["faults"][0]["matched"] == 0
    assert (arize.cancel(run_id).status, arize.run(run_id)["status"]) == (200, "RUNNING")
    assert (arize.cancel(run_id).status, arize.run(run_id)["status"]) == (200, "CANCELLED")


def test_a_slow_cancel_can_lose_its_answer_too(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(cancel_takes_seconds=5, cut="after")
    with pytest.raises(http.client.RemoteDisconnected):
        arize.cancel(run_id)
    assert arize.run(run_id)["status"] == "RUNNING"
    arize.advance(6)
    assert arize.run(run_id)["status"] == "CANCELLED"


def test_setting_a_run_drops_its_pending_cancel(arize: Caller) -> None:
    run_id = running_run(arize)
    arize.fault(cancel_takes_seconds=5)
    arize.cancel(run_id)
    arize.call("PATCH", f"/sandbox/runs/{run_id}", body={"status": "running"})
    arize.advance(60)
    assert arize.run(run_id)["status"] == "RUNNING"
