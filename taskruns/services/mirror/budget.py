"""The ceiling of calls per key: at most ARIZE_CALLS_PER_MINUTE in any 60 seconds, over all rounds.

Two kinds of reading are held back within it, so that neither keeps the other waiting: active runs, and first contact
with an account.
"""

import threading
import time
from collections import Counter
from collections.abc import Collection
from enum import IntEnum

WINDOW = 60  # seconds
SLOT = 5  # seconds, from round to round while there is much to read


class Kind(IntEnum):
    """ACTIVE has at most two thirds of a minute's calls, or many active runs would keep new ones from being found.

    FIRST may use all that is left: a third of the ceiling at once, the rest spread over the minute together with
    ACTIVE, or the active runs that it finds could not be read again before the minute is over.
    """

    OTHER = 0
    ACTIVE = 1
    FIRST = 2


_SPREAD = (Kind.ACTIVE, Kind.FIRST)


class Budget:
    """What one round may still spend. Safe between threads.

    `recent` is what the rounds before have spent: [[second since 1970, kind, calls], ...].
    """

    def __init__(self, ceiling: int, recent: list[list[int]]) -> None:
        self._lock = threading.Lock()
        self._ceiling = ceiling
        self._spent = Counter({(second, Kind(kind)): calls for second, kind, calls in recent})

    def take(self, kind: Kind = Kind.OTHER) -> bool:
        """Reserve a call that is about to be made, or a retry; False when the minute's are used up."""
        now = int(time.time())
        with self._lock:
            if not self._has_room(kind, now):
                return False
            self._spent[now, kind] += 1
            return True

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
        third = -(-self._ceiling // 3)
        of_kind = self._within(WINDOW, now, {kind})
        if kind is Kind.ACTIVE:
            return of_kind < self._ceiling - third
        return of_kind < third or self._within(SLOT, now, _SPREAD) < self._a_slot(now)

    def _a_slot(self, now: int) -> int:
        """The calls of a slot, if the largest slot of this minute and all the others are to fit under the ceiling."""
        slots: Counter[int] = Counter()
        for (at, kind), calls in self._spent.items():
            if kind in _SPREAD and now - WINDOW < at <= now - SLOT:
                slots[at // SLOT] += calls
        free = self._ceiling - self._within(WINDOW, now, {Kind.OTHER}) - max(slots.values(), default=0)
        return max(1, free * SLOT // (WINDOW - SLOT))

    def _within(self, seconds: int, now: int, kinds: Collection[Kind] = tuple(Kind)) -> int:
        return sum(calls for (at, kind), calls in self._spent.items() if at > now - seconds and kind in kinds)
