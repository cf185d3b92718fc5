"""The simulated world: it depends on seed and time, has varied content, and its runs progress by themselves."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from taskruns.sandbox.server import running
from tests.sandbox.frozen import settings

from .caller import Caller


@pytest.fixture
def arize() -> Iterator[Caller]:
    with running(settings()) as server:
        yield Caller(server.url)


def test_reading_does_not_change_the_world() -> None:
    with running(settings()) as one, running(settings()) as other, running(settings(seed=2)) as third:
        often, once, different = Caller(one.url), Caller(other.url), Caller(third.url)
        for _ in range(10):
            often.advance(120)
            often.snapshot()
        once.advance(1200)
        different.advance(1200)
        assert often.snapshot() == once.snapshot()
        assert different.snapshot() != once.snapshot()


def test_world_starts_with_runs_of_every_status(arize: Caller) -> None:
    with running(settings(tasks=40)) as server:
        runs = [run for runs in Caller(server.url).snapshot()["runs"].values() for run in runs]
    kinds = Counter(run["status"] for run in runs)
    assert set(kinds) == {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
    assert any(run["status"] == "COMPLETED" and run["num_errors"] for run in runs)
    assert all(run["failure_reason"] for run in runs if run["status"] in {"FAILED", "CANCELLED"})
    cancelled = [run for run in runs if run["status"] == "CANCELLED"]
    assert {(run["num_successes"], run["num_errors"], run["num_skipped"]) for run in cancelled} == {(0, 0, 0)}
    assert 120 < len(runs) < 400


def test_runs_progress_and_finish(arize: Caller) -> None:
    before = arize.snapshot()["runs"]
    active = next(
        run for runs in before.values() for run in runs if run["status"] == "RUNNING" and run["num_successes"]
    )
    arize.advance(10)
    assert arize.run(active["id"])["num_successes"] > active["num_successes"]
    arize.advance(3600)
    assert arize.run(active["id"])["status"] == "COMPLETED"
    after = arize.snapshot()["runs"]
    assert sum(map(len, after.values())) > sum(map(len, before.values())) + 5
    assert all(task["last_run_at"] == after[task["id"]][0]["created_at"] for task in arize.tasks())


def test_10_to_20_percent_of_tasks_are_active_over_a_day() -> None:
    with running(settings(tasks=40)) as server:
        arize, shares = Caller(server.url), []
        for _ in range(12):
            arize.advance(7200)
            newest = [arize.get(f"/v2/tasks/{task['id']}/runs", limit=1).json for task in arize.tasks()]
            shares.append(sum(page["task_runs"][0]["run_finished_at"] is None for page in newest) / 40)
    assert 0.1 <= sum(shares) / len(shares) <= 0.2


def test_fast_world_shows_no_time_in_the_future() -> None:
    with running(settings(speed=1000, epoch=None)) as server:
        arize = Caller(server.url)
        task = next(task["id"] for task in arize.tasks() if arize.runs(task["id"], status="RUNNING"))
        deadline = datetime.now(UTC) + timedelta(seconds=10)
        while arize.runs(task, status="RUNNING") and datetime.now(UTC) < deadline:
            pass
        # The next run may have started already.
        ended = [run["run_finished_at"] for run in arize.runs(task) if run["run_finished_at"]]
        assert ended
        assert max(map(datetime.fromisoformat, ended)) <= datetime.now(UTC)


@pytest.mark.slow
def test_busy_tasks_always_have_an_active_run_in_each_space() -> None:
    with running(settings(tasks=20, busy=2)) as server, running(settings(tasks=20, busy=2)) as twin:
        arize, other = Caller(server.url), Caller(twin.url)
        for _ in range(40):
            for space in arize.get("/v2/spaces").json["spaces"]:
                runs = [run for task in arize.tasks(space_id=space["id"]) for run in arize.runs(task["id"])]
                assert sum(run["status"] in {"PENDING", "RUNNING"} for run in runs) >= 2
            arize.advance(97)
            other.advance(97)
        assert arize.snapshot() == other.snapshot()
