"""The faults of a bad day: gateways' pages, broken JSON, silence, rate limits, cancels that do not do their work."""

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taskruns.sandbox.rate_limit import RateLimit
from taskruns.sandbox.server import running
from taskruns.sandbox.simulation import Settings

from .caller import Caller

KEYS = {"ak-full-key-1": ()}


@pytest.fixture
def arize() -> Iterator[Caller]:
    with running(Settings(keys=KEYS, tasks=4, speed=0)) as server:
        yield Caller(server.url)


def fault(arize: Caller, **members: Any) -> None:
    answer = arize.post("/sandbox/faults", members)
    assert answer.status == 201, answer.body


def running_run(arize: Caller) -> str:
    return arize.add_runs(arize.tasks()[0]["id"])[0]["id"]


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_a_gateway_answers_its_page_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    fault(arize, path="/cancel", answer="html", answer_at=moment, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html")
    assert b"<h1>502 Bad Gateway</h1>" in answer.body
    assert arize.run(run_id)["status"] == status


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_json_breaks_off_before_or_after_the_work(arize: Caller, moment: str, status: str) -> None:
    run_id = running_run(arize)
    fault(arize, path="/cancel", answer="malformed", answer_at=moment, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body.startswith(b'{"id": "')
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)
    assert arize.run(run_id)["status"] == status


def test_an_error_can_hide_that_the_work_was_done(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, path="/cancel", status=503, answer_at="after")
    assert (arize.cancel(run_id).status, arize.run(run_id)["status"]) == (503, "CANCELLED")


@pytest.mark.parametrize(("moment", "status"), [("before", "RUNNING"), ("after", "CANCELLED")])
def test_a_hang_keeps_the_line_open_without_an_answer(moment: str, status: str) -> None:
    with running(Settings(keys=KEYS, tasks=1, speed=0)) as server, ThreadPoolExecutor(1) as pool:
        arize = Caller(server.url)
        run_id = running_run(arize)
        fault(arize, path="/cancel", hang=moment)
        waiting = pool.submit(arize.cancel, run_id)
        while not (received := arize.get("/sandbox/requests", path="/cancel").json["requests"]):
            pass
        while moment == "after" and arize.run(run_id)["status"] == "RUNNING":
            pass
        assert (received[0]["in_flight"], waiting.done(), arize.run(run_id)["status"]) == (True, False, status)
        server.stop()  # the only end that a hang has within minutes
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            waiting.result(timeout=10)


def test_a_rate_limit_refuses_what_comes_too_fast(arize: Caller) -> None:
    fault(arize, method="GET", path="/v2/spaces", per_second=0.01)
    first, second = arize.get("/v2/spaces"), arize.get("/v2/spaces")
    assert (first.status, second.status, second.headers["Retry-After"]) == (200, 429, "100")
    assert second.headers["Content-Type"] == "application/problem+json"
    assert second.json["detail"] == "More than 0.01 requests a second."
    assert arize.get("/v2/tasks").status == 200
    (listed,) = arize.get("/sandbox/faults").json["faults"]
    assert (listed["matched"], listed["fired"]) == (2, 1)


def test_what_exceeds_a_rate_can_meet_another_fault_and_the_rest_goes_on_to_the_next(arize: Caller) -> None:
    slow_down = {"path": "/v2/spaces", "per_second": 0.01, "status": 503, "count": 1}
    arize.post("/sandbox/faults", {"faults": [slow_down, {"path": "/v2/spaces", "status": 500, "count": 1}]})
    assert [arize.get("/v2/spaces").status for _ in range(3)] == [500, 503, 200]


def test_a_steady_pace_at_the_limit_is_never_refused_and_no_second_holds_twice_as_many() -> None:
    steady = RateLimit(50)
    assert all(steady.lets_through(1_000 + turn / 50) for turn in range(500))
    burst = RateLimit(50)
    through = [burst.lets_through(1_000 + turn / 1_000) for turn in range(3_000)]
    assert all(through[:50])
    assert not through[60]
    assert 195 <= sum(through) <= 200  # 50 at once and 50 a second
    assert RateLimit(0.5).lets_through(7)


def test_the_rate_is_counted_over_all_threads(arize: Caller) -> None:
    fault(arize, path="/v2/spaces", per_second=0.01)
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return arize.get("/v2/spaces").status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == [200] + [429] * 7


def test_a_cancel_can_take_its_time(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, cancel_takes_seconds=30, count=1)
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


def test_a_run_that_ends_before_its_cancel_took_effect_has_its_own_end(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, cancel_takes_seconds=7_200, count=1)
    assert arize.cancel(run_id).status == 200
    arize.advance(3_600)
    assert arize.run(run_id)["status"] == "COMPLETED"
    arize.advance(7_200)
    assert arize.run(run_id)["status"] == "COMPLETED"


@pytest.mark.parametrize(("effect", "answered"), [("ignored", "RUNNING"), ("only_claimed", "CANCELLED")])
def test_a_cancel_can_do_nothing(arize: Caller, effect: str, answered: str) -> None:
    run_id = running_run(arize)
    fault(arize, cancel=effect, count=1)
    answer = arize.cancel(run_id)
    assert (answer.status, answer.json["status"], arize.run(run_id)["status"]) == (200, answered, "RUNNING")
    arize.advance(3_600)
    assert arize.run(run_id)["status"] == "COMPLETED"


def test_what_changes_a_cancel_meets_cancels_only(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, cancel="ignored", count=1)
    arize.run(run_id)
    arize.tasks()
    assert arize.get("/sandbox/faults").json["faults"][0]["matched"] == 0
    assert (arize.cancel(run_id).status, arize.run(run_id)["status"]) == (200, "RUNNING")
    assert (arize.cancel(run_id).status, arize.run(run_id)["status"]) == (200, "CANCELLED")


def test_a_slow_cancel_can_lose_its_answer_too(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, cancel_takes_seconds=5, cut="after")
    with pytest.raises(http.client.RemoteDisconnected):
        arize.cancel(run_id)
    assert arize.run(run_id)["status"] == "RUNNING"
    arize.advance(6)
    assert arize.run(run_id)["status"] == "CANCELLED"


def test_a_run_that_is_set_forgets_a_cancel_under_way(arize: Caller) -> None:
    run_id = running_run(arize)
    fault(arize, cancel_takes_seconds=5)
    arize.cancel(run_id)
    arize.call("PATCH", f"/sandbox/runs/{run_id}", body={"status": "running"})
    arize.advance(60)
    assert arize.run(run_id)["status"] == "RUNNING"
