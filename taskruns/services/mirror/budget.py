"""The ceiling of calls per key: at most ARIZE_CALLS_PER_MINUTE in any 60 seconds, over all rounds.

Two kinds of reading are held back within it, so that neither keeps the other waiting: active runs, and first contact
with an account.
"""

import threading
import time
from collections import Counter
from enum import IntEnum

WINDOW = 60  # seconds
SLOT = 5  # seconds, from round to round while there is much to read


class Kind(IntEnum):
    """ACTIVE has at most two thirds of a minute's calls, or many active runs would keep new ones from being found.

    FIRST may use all that is left, but half of the ceiling at once and the rest spread over the minute, or the active
    runs that it finds could not be read again before the minute is over. A third is its own.
    """

    OTHER = 0
    ACTIVE = 1
    FIRST = 2


class Budget:
    """What one round may still spend. Safe between threads.

    `recent` is what the rounds before have spent: [[second since 1970, kind, calls], ...].
    """

    def __init__(self, ceiling: int, recent: list[list[int]]) -> None:
        self._lock = threading.Lock()
        self._ceiling = ceiling
        self._spent = Counter({(second, Kind(kind)): calls for second, kind, calls in recent})

    def take(self, kind: Kind = Kind.OTHER) -> bool:
        """Reserve a call that is about to be made; False when the minute's are used up."""
        now = int(time.time())
        with self._lock:
            if not self._has_room(kind, now):
                return False
            self._spent[now, kind] += 1
            return True

    def add(self, calls: int) -> None:
        """Count calls that were made beyond those reserved: repeated reads."""
        with self._lock:
            self._spent[int(time.time()), Kind.OTHER] += calls

    def left(self) -> int:
        with self._lock:
            return max(0, self._ceiling - self._within(WINDOW, int(time.time())))

    def recent(self) -> list[list[int]]:
        now = int(time.time())
        with self._lock:
            spent = sorted(self._spent.items())
            return [[at, kind, calls] for (at, kind), calls in spent if at > now - WINDOW and calls]

    def _has_room(self, kind: Kind, now: int) -> bool:
        spent = self._within(WINDOW, now)
        if spent >= self._ceiling or kind is Kind.OTHER:
            return spent < self._ceiling
        third, half = -(-self._ceiling // 3), -(-self._ceiling // 2)
        of_kind = self._within(WINDOW, now, kind)
        if kind is Kind.ACTIVE:
            return of_kind < self._ceiling - third
        a_slot = -(-(self._ceiling - half) * SLOT // (WINDOW - SLOT))
        return spent < half or of_kind < third or self._within(SLOT, now) < a_slot

    def _within(self, seconds: int, now: int, kind: Kind | None = None) -> int:
        return sum(
            calls for (at, spent_on), calls in self._spent.items() if at > now - seconds and kind in {None, spent_on}
        )
