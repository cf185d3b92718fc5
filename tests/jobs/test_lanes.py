"""Lanes: each kind of work has its own threads, and slow work gives up its place."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from taskruns.worker import lanes
from taskruns.worker.lanes import Lane
from tests.processes import wait_for


class Work:
    """`work(key)` runs until `release(key)`."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.again: dict[str, int] = {}
        self._gates: dict[str, threading.Event] = {}

    def __call__(self, key: str) -> bool:
        self.began.append(key)
        self.gate(key).wait(20)
        self.ended.append(key)
        self.again[key] = self.again.get(key, 0) - 1
        return self.again[key] >= 0

    def gate(self, key: str) -> threading.Event:
        return self._gates.setdefault(key, threading.Event())

    def release(self, *keys: str) -> None:
        for key in keys:
            self.gate(key).set()


Start = Callable[..., tuple[Lane[str], Work]]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[tuple[Lane[str], Work]] = []

    def begin(**options: Any) -> tuple[Lane[str], Work]:
        work = Work()
        started.append((Lane[str]("tests", work, **options), work))
        return started[-1]

    yield begin
    for lane, work in started:
        work.release(*work.began)
        lane.stop()
        assert lane.wait(10)


def test_a_lane_runs_as_many_keys_as_it_has_places(start: Start) -> None:
    lane, work = start(places=2)
    for key in "abc":
        assert lane.add(key)
    wait_for(lambda: len(work.began) == 2, "two places")
    lane.staff()
    assert sorted(work.began) == ["a", "b"]
    work.release("a")
    wait_for(lambda: len(work.began) == 3, "the next one")


def test_a_key_is_neither_queued_twice_nor_run_twice_at_once(start: Start) -> None:
    lane, work = start(places=1)
    assert lane.add("a")
    wait_for(lambda: work.began == ["a"], "the first")
    assert not lane.add("a")
    assert lane.add("b")
    assert not lane.add("b")
    work.release("a", "b")
    wait_for(lambda: work.ended == ["a", "b"], "both")
    wait_for(lambda: lane.add("a"), "a key that ended may come again")


def test_slow_work_gives_up_its_place_but_not_without_limit(start: Start) -> None:
    lane, work = start(places=1, most=3, slow_after=0.0)
    for key in "abcd":
        lane.add(key)

    def all_began() -> bool:
        lane.staff()  # as the clock does every second
        return len(work.began) == 3

    wait_for(all_began, "as many as there may be")
    lane.staff()
    assert "d" not in work.began
    work.release("b")
    wait_for(lambda: "d" in work.began, "the last one")
    assert work.ended == ["b"]


def test_work_that_is_not_done_runs_again_after_the_others(start: Start) -> None:
    lane, work = start(places=1)
    work.again = {"a": 2}
    work.release("b")
    lane.add("a")
    wait_for(lambda: work.began == ["a"], "the first")
    lane.add("b")
    work.release("a")
    wait_for(lambda: work.ended == ["a", "b", "a", "a"], "its turns")


def test_an_error_is_logged_and_the_thread_goes_on(start: Start, caplog: Any) -> None:
    done: list[str] = []

    def work(key: str) -> None:
        if key == "bad":
            raise ValueError(key)
        done.append(key)

    lane = Lane[str]("tests", work, places=1)
    lane.add("bad")
    lane.add("good")
    wait_for(lambda: done == ["good"], "the next key")
    assert "job_failed" in caplog.text
    lane.stop()


def test_a_key_runs_again_although_its_connection_could_not_be_closed(start: Start, monkeypatch: Any) -> None:
    lane, work = start(places=1)
    work.release("a", "b")

    def fail() -> None:
        raise OSError("the connection is broken")

    with monkeypatch.context() as patch, threads_may_fail(patch):
        patch.setattr(lanes, "close_old_connections", fail)
        lane.add("a")
        wait_for(lambda: lane._threads == 0, "the thread to end")
    assert lane.add("a")
    wait_for(lambda: work.ended == ["a"], "the next try")


def test_a_thread_that_cannot_be_started_is_not_counted(start: Start, monkeypatch: Any) -> None:
    lane, work = start(places=1)
    work.release("a")

    def refuse(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            lane.add("a")
    lane.staff()
    wait_for(lambda: work.ended == ["a"], "the next thread")


@contextmanager
def threads_may_fail(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Else pytest reports the error of a thread as a warning."""
    patch.setattr(threading, "excepthook", lambda _: None)
    yield


def test_a_stopped_lane_starts_nothing_and_says_whether_it_is_done(start: Start) -> None:
    lane, work = start(places=1)
    lane.add("a")
    lane.add("b")
    wait_for(lambda: work.began == ["a"], "the first")
    lane.stop()
    assert not lane.wait(0.05)
    assert not lane.add("c")
    work.release("a", "b")
    assert lane.wait(10)
    assert work.began == ["a"]


def test_unused_threads_end(start: Start, monkeypatch: Any) -> None:
    monkeypatch.setattr(lanes, "IDLE_FOR", 0.05)
    lane, work = start(places=2)
    work.release("a", "b")
    lane.add("a")
    lane.add("b")
    wait_for(lambda: len(work.ended) == 2, "both")
    wait_for(lambda: lane._threads == 0, "the threads to end")
    work.release("c")
    lane.add("c")
    wait_for(lambda: "c" in work.ended, "a new thread")
