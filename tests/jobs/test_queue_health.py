"""A queue that fails: noticed, logged once a minute, and the process ends if only its own connection is broken."""

import logging
import math
import threading
import time
from typing import Any

import pytest

from config.logs import QueueErrors
from taskruns.worker import queue
from taskruns.worker.queue import QueueHealth, Watch
from tests.processes import wait_for


@pytest.fixture
def at(monkeypatch: Any) -> Any:
    """`at(seconds)` moves the monotonic clock."""
    start = math.ceil(time.monotonic())  # whole seconds: their sums are exact

    def move(seconds: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: start + seconds)

    move(0)
    return move


class Storage:
    """A queue that works unless it is told otherwise."""

    broken = False

    def dequeue(self) -> None:
        if self.broken:
            raise ConnectionError

    def read_schedule(self, _: Any = None) -> None:
        self.dequeue()


def test_an_operation_that_fails_is_noticed_until_it_works(at: Any) -> None:
    health, storage = QueueHealth(), Storage()
    dequeue = health.watched("dequeue", storage.dequeue)
    read = health.watched("read_schedule", lambda: None)
    dequeue()
    assert health.is_working()
    storage.broken = True
    since = time.monotonic()
    for second in (0, 30):
        at(second)
        read()
        with pytest.raises(ConnectionError):
            dequeue()
    assert health.failing_since() == since
    storage.broken = False
    dequeue()
    assert health.is_working()


def test_an_operation_that_never_returns_is_noticed(monkeypatch: Any) -> None:
    monkeypatch.setattr(queue, "PATIENCE", 0.05)
    health, gate = QueueHealth(), threading.Event()
    thread = threading.Thread(target=health.watched("dequeue", gate.wait))
    thread.start()
    wait_for(lambda: not health.is_working(), "the patience to end", within=5)
    gate.set()
    thread.join()
    assert health.is_working()


def test_a_worker_with_nothing_to_ask_is_healthy(at: Any) -> None:
    """All threads may be busy for minutes with long jobs."""
    health = QueueHealth()
    health.watched("dequeue", lambda: None)()
    at(600)
    assert health.is_working()


def test_the_process_ends_if_only_its_own_connection_is_broken(at: Any, caplog: Any) -> None:
    health, mine, anew, ended = QueueHealth(), Storage(), Storage(), [0]
    dequeue = health.watched("dequeue", mine.dequeue)

    def end() -> None:
        ended[0] += 1

    watch = Watch(health, anew.dequeue, end)
    mine.broken = anew.broken = True
    with pytest.raises(ConnectionError):
        dequeue()
    for second in range(0, 300, 5):
        at(second)
        assert not watch.look(), "a new process could do no more while the queue is down"
    anew.broken = False
    for second in range(300, 360, 5):
        at(second)
        assert not watch.look()
    at(360)
    assert watch.look()
    assert ended == [1]
    assert "queue_connection_broken" in caplog.text


def test_a_queue_that_recovers_ends_no_process(at: Any) -> None:
    health, mine = QueueHealth(), Storage()
    dequeue = health.watched("dequeue", mine.dequeue)
    watch = Watch(health, lambda: None, lambda: pytest.fail("it ended"))
    for start in (0, 100):
        mine.broken = True
        with pytest.raises(ConnectionError):
            dequeue()
        for second in range(start, start + 60, 5):
            at(second)
            watch.look()
        mine.broken = False
        dequeue()
        watch.look()


def record(text: str, *args: Any, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("huey.consumer.Worker", logging.ERROR, __file__, 1, text, args, info)


def test_errors_of_the_queue_are_one_short_line_a_minute(at: Any) -> None:
    only = QueueErrors()
    lines = []
    for second in range(0, 121, 5):
        at(second)
        for text in ("Error reading from queue", "Error reading schedule.", "Error enqueueing %s."):
            line = record(text, *["job"] * text.count("%"), error=ConnectionError("refused"))
            if only.filter(line):
                lines.append((line.getMessage(), line.exc_info))
    assert [info for _, info in lines] == [None] * 3
    assert lines[1][0] == "The queue cannot be used: ConnectionError: refused (35 errors since the last line)"


def test_errors_of_jobs_keep_their_traceback() -> None:
    only, line = QueueErrors(), record("Unhandled exception in task %s.", "1", error=ValueError("why"))
    assert only.filter(line)
    assert only.filter(line)
    assert line.exc_info is not None
