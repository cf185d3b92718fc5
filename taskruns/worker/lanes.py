"""Lanes: each kind of work has threads of its own, so that none waits for another kind."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import structlog
from django.db import close_old_connections, connection

log = structlog.get_logger(__name__)
K = TypeVar("K", bound=Hashable)
# Work that takes longer than this waits for something, such as a silent Arize, and gives its place to the next.
SLOW_AFTER = 3.0  # seconds, unless a lane has its own
IDLE_FOR = 60.0  # seconds after which an unused thread ends and closes its database connection


class Lane(Generic[K]):
    """Runs `work(key)` in threads of its own. A key is never queued twice, nor run twice at once.

    At most `places` keys that began less than `slow_after` ago run at once, and at most `most` keys in all. If `work`
    returns true, the key is queued again behind the others.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[K], object],
        *,
        places: int,
        most: int | None = None,
        slow_after: float = SLOW_AFTER,
    ) -> None:
        self.name = name
        self.places, self.most, self.slow_after = places, most or places, slow_after
        self._work = work
        self._changed = threading.Condition()
        self._waiting: dict[K, None] = {}
        self._running: dict[K, float] = {}  # since when
        self._threads = self._idle = 0
        self._is_stopped = False

    def add(self, key: K) -> bool:
        """False if the key is already queued or running, or the lane is stopped."""
        with self._changed:
            if self._is_stopped or key in self._waiting or key in self._running:
                return False
            self._waiting[key] = None
        self.staff()
        return True

    def staff(self) -> None:
        """Let threads start what may start now. Call it every second, because places become free with time."""
        with self._changed:
            wanted = min(len(self._waiting), self._free())
            self._changed.notify(wanted)
            for _ in range(min(wanted - self._idle, self.most - self._threads)):
                threading.Thread(target=self._run, name=self.name, daemon=True).start()
                self._threads += 1  # only of a thread that could be started

    def stop(self) -> None:
        """Start nothing more. What runs continues until the process ends."""
        with self._changed:
            self._is_stopped = True
            self._waiting.clear()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing runs. False if something still runs after this time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout=max(0.0, seconds))

    def _free(self) -> int:
        since = time.monotonic() - self.slow_after
        busy = sum(began > since for began in self._running.values())
        return min(self.places - busy, self.most - len(self._running))

    def _run(self) -> None:
        try:
            while (key := self._take()) is not None:
                again = False
                try:
                    again = self._do(key)
                finally:
                    with self._changed:
                        del self._running[key]
                        if again and not self._is_stopped:
                            self._waiting[key] = None
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._threads -= 1
            connection.close()

    def _take(self) -> K | None:
        """The next key, or None if this thread is no longer needed."""
        with self._changed:
            self._idle += 1
            try:
                while not self._is_stopped and not (self._waiting and self._free() > 0):
                    if not self._changed.wait(IDLE_FOR) and not self._waiting:
                        return None
                if self._is_stopped:
                    return None
                key = next(iter(self._waiting))
                del self._waiting[key]
                self._running[key] = time.monotonic()
                return key
            finally:
                self._idle -= 1

    def _do(self, key: K) -> bool:
        close_old_connections()
        try:
            return bool(self._work(key))
        except Exception:
            log.exception("job_failed", lane=self.name, job=str(key))
            return False
        finally:
            close_old_connections()
