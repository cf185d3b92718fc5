"""The rate limit of a key: at most ARIZE_CALLS_PER_MINUTE calls in any 60 seconds, across all rounds and workers.

Two kinds of calls have a token bucket each, so that neither starves the other and no round uses up the calls of later
rounds in the same minute. Both buckets are computed from the calls of the last minute, which are stored in
`Credential.recent_calls`; a worker that dies loses no other state.
"""

import threading
import time
from collections import Counter
from enum import IntEnum

WINDOW = 60  # seconds
MOST_AHEAD = 15  # calls


class Kind(IntEnum):
    """ACTIVE: reading active runs. FIRST: reading tasks for the first time, for example with a new key.

    OTHER has no bucket: these are few calls, or the most important ones (cancels without an outcome).
    LOOKUP: a person opens a run by its Arize ID, outside the rounds.
    """

    OTHER = 0
    ACTIVE = 1
    FIRST = 2
    LOOKUP = 3


class Budget:
    """The calls that one round may still make. Thread-safe.

    `recent`: the calls of earlier rounds and of lookups, as [[seconds since 1970, kind, calls], ...].
    `is_apart`: these calls are not stored, so they are not missing in later rounds.
    """

    def __init__(self, limit: int, recent: list[list[int]], *, is_apart: bool = False) -> None:
        self.is_apart = is_apart
        self._lock = threading.Lock()
        self._limit = limit
        self._own = 0  # calls of this round
        self._noted = 0  # calls of this round that are stored in the database
        self._spent = Counter({(second, Kind(kind)): calls for second, kind, calls in recent})

    def take(self, kind: Kind = Kind.OTHER) -> bool:
        """Reserve one call or retry, just before making it. False if none is left now."""
        now = int(time.time())
        with self._lock:
            if self._left(now) <= 0 or (kind is not Kind.OTHER and self._tokens(kind, now) < 1):
                return False
            self._spent[now, kind] += 1
            self._own += 1
            return True

    def left(self) -> int:
        with self._lock:
            return max(0, self._left(int(time.time())))

    def recent(self) -> list[list[int]]:
        with self._lock:
            return self._recent(Counter())

    def learn_lookups(self, recent: list[list[int]]) -> None:
        """Count the lookups that were stored since this budget was made."""
        with self._lock:
            for second, kind, calls in recent:
                if kind == Kind.LOOKUP:
                    self._spent[second, Kind.LOOKUP] = max(calls, self._spent[second, Kind.LOOKUP])

    def needs_note(self) -> bool:
        """Whether the next call is not stored in the database yet."""
        with self._lock:
            return self._own >= self._noted

    def ahead(self) -> list[list[int]]:
        """`recent` plus some of the next calls: stored in advance, so that the calls of a killed worker count."""
        ahead = max(1, min(self._limit // 20, MOST_AHEAD))
        with self._lock:
            self._noted = self._own + ahead
            return self._recent(Counter({(int(time.time()), Kind.OTHER): ahead}))

    def _tokens(self, kind: Kind, now: int) -> float:
        """The tokens left in the bucket now, assuming that it was full a minute ago."""
        at_once, in_a_minute = self._bucket(kind, now)
        in_a_second = max(0.0, in_a_minute - at_once) / WINDOW
        tokens, since = at_once, now - WINDOW
        for at, calls in [*self._calls(now, kind), (now, 0)]:
            tokens = min(at_once, tokens + in_a_second * (at - since)) - calls
            since = at
        return tokens

    def _bucket(self, kind: Kind, now: int) -> tuple[float, float]:
        """(calls at once, calls in a minute). FIRST gets what the other kinds leave, less a reserve of one twelfth."""
        if kind is Kind.LOOKUP:
            return max(1, self._limit / 20), max(1, self._limit / 10)
        if kind is Kind.ACTIVE:
            return max(1, self._limit / 6), self._limit * 2 / 3
        left = self._limit * 11 / 12 - self._count(now, Kind.OTHER, Kind.ACTIVE, Kind.LOOKUP)
        return max(1, self._limit / 3), max(self._limit / 3, left)

    def _left(self, now: int) -> int:
        return self._limit - self._count(now, *Kind)

    def _count(self, now: int, *kinds: Kind) -> int:
        return sum(calls for _, calls in self._calls(now, *kinds))

    def _calls(self, now: int, *kinds: Kind) -> list[tuple[int, int]]:
        """(second, calls) of the last minute, oldest first."""
        return [(at, calls) for (at, kind), calls in sorted(self._spent.items()) if at > now - WINDOW and kind in kinds]

    def _recent(self, more: Counter[tuple[int, Kind]]) -> list[list[int]]:
        spent, now = self._spent + more, int(time.time())
        return [[at, kind, calls] for (at, kind), calls in sorted(spent.items()) if at > now - WINDOW]
