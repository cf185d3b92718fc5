"""Work that need not be done before the answer: one thread of the process works through a short queue."""

import atexit
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from django.db import connection

log = structlog.get_logger(__name__)
MOST_WAITING = 50  # jobs
IDLE = 10.0  # seconds after which the thread and its database connection end
EVERY = 1.0  # seconds between two calls of `regular`


class Background:
    """Nothing that fails in a job reaches anyone but the log. `regular`: also called about once a second while there
    are jobs, and before the thread or the process ends.
    """

    def __init__(self, name: str, *, regular: Callable[[], object] = lambda: None) -> None:
        self._name, self._regular = name, regular
        self._jobs: queue.Queue[Callable[[], object]] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_known = False

    def submit(self, job: Callable[[], object]) -> bool:
        """False if too many jobs wait."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        self.start()
        return True

    def start(self) -> None:
        with self._lock:
            if not self._is_known:
                self._is_known = True
                atexit.register(run_quietly, self._regular)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        worked_at = called_at = time.monotonic()
        while True:
            with suppress(queue.Empty):
                run_quietly(self._jobs.get(timeout=EVERY))
                worked_at = time.monotonic()
            if time.monotonic() - called_at >= EVERY:
                called_at = time.monotonic()
                run_quietly(self._regular)
            connection.close_if_unusable_or_obsolete()
            if time.monotonic() - worked_at > IDLE and self._is_over():
                return

    def _is_over(self) -> bool:
        """The thread ends, and the next job starts a new one."""
        with self._lock:
            if not self._jobs.empty():
                return False
            self._thread = None
        run_quietly(self._regular)
        connection.close()
        return True


def run_quietly(job: Callable[[], object]) -> bool:
    try:
        job()
    except Exception:
        log.warning("background_job_failed", exc_info=True)
    return True
