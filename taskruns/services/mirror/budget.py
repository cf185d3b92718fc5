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
SLOT = 5  # seconds, from round to round while somebody looks or there is much to read
PAUSE = 20  # seconds
PORTION = 15  # calls, at most


class Kind(IntEnum):
    """ACTIVE has two thirds of a minute's calls, or many active runs would keep new ones from being found. FIRST has
    what is left but for a twelfth. Each may take a third of the ceiling at once, and the rest spread over the minute:
    otherwise what is read at its beginning could not be read again before its end.
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
        self._own: Counter[Kind] = Counter()  # of this round
        self._noted = 0  # of this round, as `ahead` told
        self._spent = Counter({(second, Kind(kind)): calls for second, kind, calls in recent})

    def take(self, kind: Kind = Kind.OTHER) -> bool:
        """Reserve a call that is about to be made, or a retry; False when the minute's are used up."""
        now = int(time.time())
        with self._lock:
            if not self._has_room(kind, now):
                return False
            self._spent[now, kind] += 1
            self._own[kind] += 1
            return True

    def left(self) -> int:
        with self._lock:
            return max(0, self._ceiling - self._within(WINDOW, int(time.time())))

    def recent(self) -> list[list[int]]:
        with self._lock:
            return self._recent(Counter())

    def needs_note(self) -> bool:
        """Whether calls are about to be made of which the database does not know."""
        with self._lock:
            return sum(self._own.values()) >= self._noted

    def ahead(self) -> list[list[int]]:
        """`recent` and a portion that is about to be spent: noted before, so that a killed worker's calls count too."""
        portion = max(1, min(self._ceiling // 20, PORTION))
        with self._lock:
            self._noted = sum(self._own.values()) + portion
            return self._recent(Counter({(int(time.time()), Kind.OTHER): portion}))

    def _recent(self, more: Counter[tuple[int, Kind]]) -> list[list[int]]:
        spent, now = self._spent + more, int(time.time())
        return [[at, kind, calls] for (at, kind), calls in sorted(spent.items()) if at > now - WINDOW]

    def _has_room(self, kind: Kind, now: int) -> bool:
        if self._within(WINDOW, now) >= self._ceiling:
            return False
        if kind is Kind.ACTIVE:
            return self._has_room_for_active(now)
        return kind is Kind.OTHER or self._has_room_for_first(now)

    def _has_room_for_active(self, now: int) -> bool:
        share, own = self._ceiling - self._third, self._own[Kind.ACTIVE]
        if self._within(WINDOW, now, {Kind.ACTIVE}) >= share:
            return False
        # After a pause, as when nobody looks, a round makes up for it.
        at_once = self._third if self._within(PAUSE, now, {Kind.ACTIVE}) == own else 0
        return own < max(at_once, self._a_slot(now, {Kind.ACTIVE}, share))

    def _has_room_for_first(self, now: int) -> bool:
        if self._within(WINDOW, now, {Kind.FIRST}) < self._third:
            return True
        share = self._ceiling - self._within(WINDOW, now, {Kind.OTHER})
        kept = self._ceiling * SLOT // WINDOW
        has_room = self._within(WINDOW, now) < self._ceiling - kept
        return has_room and sum(self._own[kind] for kind in _SPREAD) < self._a_slot(now, _SPREAD, share)

    @property
    def _third(self) -> int:
        return -(-self._ceiling // 3)

    def _a_slot(self, now: int, kinds: Collection[Kind], share: int) -> int:
        """The calls of a round, if the largest slot of this minute and all the others are to fit into the share."""
        slots: Counter[int] = Counter()
        for (at, kind), calls in self._spent.items():
            if kind in kinds and now - WINDOW < at <= now - SLOT:
                slots[at // SLOT] += calls
        return max(1, (share - max(slots.values(), default=0)) * SLOT // (WINDOW - SLOT))

    def _within(self, seconds: int, now: int, kinds: Collection[Kind] = tuple(Kind)) -> int:
        return sum(calls for (at, kind), calls in self._spent.items() if at > now - seconds and kind in kinds)
