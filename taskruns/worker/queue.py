"""Huey's consumer, which takes the messages, together with the clock. It notices a queue that fails."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from huey.consumer import Consumer as HueyConsumer

from .clock import Clock

log = structlog.get_logger(__name__)
# One attempt takes at most about 5 s, the wait for SQLite's lock. Longer ones hang.
PATIENCE = 15.0  # seconds
# If a new connection works for this long and the old ones do not, only a new process helps.
BROKEN_FOR = 60.0  # seconds
TRIED_EVERY = 5.0  # seconds
STOPS_WITHIN = 5.0  # seconds
_TRIED = "taskruns-queue-tried"
_LONG_AGO = datetime(1970, 1, 2)  # noqa: DTZ001 - the queue compares naive times


# SQLite opens a file that may not be written too, and then only a write fails.
_WRITE = """import sqlite3, sys
queue = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in ("BEGIN IMMEDIATE", "CREATE TABLE taskruns_tried (id)", "ROLLBACK"):
    queue.execute(statement)
"""


def _write_in_new_process(filename: str) -> None:
    """Within a process, a connection of SQLite that was opened read-only makes all others of its file read-only."""
    command = [sys.executable, "-I", "-c", _WRITE, filename]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)  # noqa: S603 - our own program


class QueueHealth:
    """Whether this process reaches the queue, seen from its own reads. Thread-safe.

    `dequeue` and `read_schedule` count apart: in a directory that was made read-only the first still works.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: dict[str, float] = {}  # operation -> since when
        self._attempts: dict[tuple[str, int], float] = {}  # (operation, thread) -> since when

    def watched(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            here = (name, threading.get_ident())
            with self._lock:
                self._attempts[here] = time.monotonic()
            works = False
            try:
                answer = operation(*args, **kwargs)
                works = True
                return answer
            finally:
                self._note(here, works=works)

        return attempt

    def failing_since(self) -> float | None:
        """The monotonic time since which it fails or hangs, or None."""
        late = time.monotonic() - PATIENCE
        with self._lock:
            hanging = [since for since in self._attempts.values() if since < late]
            return min([*self._failing.values(), *hanging], default=None)

    def is_working(self) -> bool:
        return self.failing_since() is None

    def _note(self, here: tuple[str, int], *, works: bool) -> None:
        with self._lock:
            del self._attempts[here]
            if works:
                self._failing.pop(here[0], None)
            else:
                self._failing.setdefault(here[0], time.monotonic())


class Watch:
    """Ends the process if it cannot use the queue for BROKEN_FOR, although a new one could.

    If a new connection fails too, the queue is down. Then the process stays, because a new one could do no more, and
    the clock keeps working.
    """

    def __init__(self, health: QueueHealth, try_anew: Callable[[], object], give_up: Callable[[], None]) -> None:
        self._health, self._try_anew, self._give_up = health, try_anew, give_up
        self._works_since: float | None = None

    def run(self) -> None:
        while not self.look():
            time.sleep(TRIED_EVERY)

    def look(self) -> bool:
        """True if it gave up."""
        if self._health.is_working() or not self._works_anew():
            self._works_since = None
            return False
        now = time.monotonic()
        self._works_since = self._works_since or now
        if now - self._works_since < BROKEN_FOR:
            return False
        log.error("queue_connection_broken", seconds=round(now - self._works_since))
        self._give_up()
        return True

    def _works_anew(self) -> bool:
        try:
            self._try_anew()
        except Exception:  # noqa: BLE001 - depends on the queue's backend; Huey's own errors are logged
            return False
        return True


class Consumer(HueyConsumer):  # type: ignore[misc]
    """Huey's own, plus the clock. `exit_code` is 1 if the process gave up its queue."""

    def __init__(self, huey: Any, **options: Any) -> None:
        super().__init__(huey, **options)
        self.exit_code = 0
        health = QueueHealth()
        for name in ("dequeue", "read_schedule"):
            setattr(huey.storage, name, health.watched(name, getattr(huey.storage, name)))
        self._clock = Clock(health.is_working)
        self._watch = Watch(health, self._try_anew, self._give_up)

    def start(self) -> None:
        super().start()
        self._clock.start()
        threading.Thread(target=self._watch.run, name="queue-watch", daemon=True).start()

    def stop(self, graceful: bool = False) -> None:  # noqa: FBT001, FBT002 - Huey's signature
        began = time.monotonic()
        self._clock.stop()
        super().stop(graceful)
        self._clock.finish(began + STOPS_WITHIN - time.monotonic() if graceful else 0.0)

    def _try_anew(self) -> None:
        """Read and write as a new process would, without taking any message: nothing is scheduled for 1970."""
        if (filename := getattr(self.huey.storage, "filename", None)) is not None:
            _write_in_new_process(filename)
            return
        storage = self.huey.create_storage()
        try:
            storage.read_schedule(_LONG_AGO)
            storage.put_data(_TRIED, b"")
            storage.pop_data(_TRIED)
        finally:
            storage.close()
            if (pool := getattr(storage, "pool", None)) is not None:  # Redis
                pool.disconnect()

    def _give_up(self) -> None:
        """Stop as for a signal, so that claims are given back. The supervisor starts a new process."""
        self.exit_code = 1
        os.kill(os.getpid(), signal.SIGTERM)
