"""Log lines about something that fails many times a second, for example a queue that is down."""

import threading
import time

EVERY = 60.0  # seconds


class Rarely:
    """`is_due()` is true at most once in EVERY seconds. `left_out` counts the others since then. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = float("-inf")
        self._count = self.left_out = 0

    def is_due(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._last < EVERY:
                self._count += 1
                return False
            self._last, self.left_out, self._count = now, self._count, 0
            return True
