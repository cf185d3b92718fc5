"""The ceiling of calls per key: at most ARIZE_CALLS_PER_MINUTE in any 60 seconds, over all rounds."""

import threading
import time
from collections import Counter

WINDOW = 60  # seconds


class Budget:
    """What one round may still spend. Safe between threads.

    `recent` is what the rounds before have spent: [[second since 1970, calls], ...].
    """

    def __init__(self, ceiling: int, recent: list[list[int]]) -> None:
        self._lock = threading.Lock()
        self._ceiling = ceiling
        self._spent: Counter[int] = Counter({second: calls for second, calls in recent})  # noqa: C416 - pairs come as lists

    def take(self, *, keep_a_third: bool = False) -> bool:
        """Reserve a call that is about to be made; False when the minute's are used up.

        With `keep_a_third` the last third of the minute is left to others.
        """
        now = int(time.time())
        kept = -(-self._ceiling // 3) if keep_a_third else 0
        with self._lock:
            if self._within(now) + 1 > self._ceiling - kept:
                return False
            self._spent[now] += 1
            return True

    def add(self, calls: int) -> None:
        """Count calls that were made beyond those reserved: repeated reads."""
        with self._lock:
            self._spent[int(time.time())] += calls

    def left(self) -> int:
        with self._lock:
            return max(0, self._ceiling - self._within(int(time.time())))

    def recent(self) -> list[list[int]]:
        now = int(time.time())
        with self._lock:
            return [[at, calls] for at, calls in sorted(self._spent.items()) if at > now - WINDOW and calls]

    def _within(self, now: int) -> int:
        return sum(calls for at, calls in self._spent.items() if at > now - WINDOW)
