"""The rate limit of a key: at most ARIZE_CALLS_PER_MINUTE calls in any 60 seconds, across all rounds and workers.

Each kind of calls has a token bucket, so that none starves another and no round uses up the calls of later rounds in
the same minute. All buckets are computed from the calls of the last minute, which are stored in
`Credential.recent_calls`; a worker that dies loses no other state.
"""

import math
import threading
import time
from collections import Counter
from enum import IntEnum
from functools import cache

from django.conf import settings
from django.db import transaction
from django.db.models import UUIDField

from taskruns.models import Credential
from taskruns.models.prepared import Prepared, Slot, update_row
from taskruns.services.minor_writes import soft_commit, soft_statement

Calls = list[list[float]]  # [[seconds since 1970, kind, calls], ...]
WINDOW = 60  # seconds
ROUND = 5  # seconds between two rounds, at the fastest pace
MOST_AHEAD = 15  # calls
MOST_STAMPS = 2_000  # kept in memory; a long round by command makes many


class Kind(IntEnum):
    """What a call is for. The numbers are stored.

    OTHER has no bucket: retries, probes and names. Outside the rounds are LOOKUP (a person opens a run by its Arize ID)
    and SWEEP (the minute's looks at cancelled runs). FIRST: reading tasks for the first time, for example with a new
    key. LOOK: reading a run again because of its cancel. MOVED: the newest runs of tasks that may have new ones.
    BACKFILL: older pages of them. SEARCH: tasks that nothing pointed to.
    SCRIPT: through the gateway, outside the rounds too.
    """

    OTHER = 0
    ACTIVE = 1
    FIRST = 2
    LOOKUP = 3
    LOOK = 4
    SWEEP = 5
    LIST = 6
    MOVED = 7
    BACKFILL = 8
    SEARCH = 9
    SCRIPT = 10


_LOOKS = (Kind.LOOK, Kind.SWEEP)
_OUTSIDE = (Kind.LOOKUP, Kind.SWEEP, Kind.SCRIPT)
# Shares of the limit: at once, and added in a minute. Their sum is what a kind gets in a minute.
_SHARES = {
    Kind.ACTIVE: (1 / 6, 1 / 2),
    Kind.LOOKUP: (1 / 20, 1 / 20),
    Kind.LOOK: (1 / 30, 1 / 20),
    Kind.SWEEP: (1 / 30, 1 / 20),
    Kind.LIST: (1 / 8 * ROUND / WINDOW, 1 / 8),
    Kind.SCRIPT: (1 / 6, 1 / 6),  # together a third, so that scripts cannot starve the board
}
# The other kinds get what is left of a share of the limit, without the calls of all but less important kinds.
_RESTS: dict[Kind, tuple[float, set[Kind]]] = {
    Kind.FIRST: (11 / 12, {Kind.SEARCH}),
    Kind.MOVED: (5 / 6, {Kind.BACKFILL, Kind.SEARCH}),
    Kind.BACKFILL: (11 / 12, {Kind.SEARCH}),
    Kind.SEARCH: (59 / 60, set()),
}
# The last calls of a minute, as shares of the limit, are for more important kinds. The search comes last in a round, so
# the calls that the next round gets back are first offered to the others: a small reserve is enough. No kind may have a
# larger one than the search beside it, which would leave it nothing.
_RESERVES = {Kind.FIRST: 1 / 20, Kind.MOVED: 1 / 60, Kind.BACKFILL: 1 / 60, Kind.SEARCH: 1 / 60}


class Budget:
    """The calls that one round may still make. Thread-safe.

    `recent`: the calls of earlier rounds and outside of rounds. A time ahead of the clock by more than a minute counts
    as past: the clock was wrong.
    `is_apart`: these calls are not stored, so they are not missing in later rounds.
    """

    def __init__(self, limit: int, recent: Calls, *, is_apart: bool = False) -> None:
        self.is_apart = is_apart
        self._lock = threading.Lock()
        self._limit = limit
        self._own = 0  # calls of this round
        self._noted = 0  # calls of this round that are stored in the database
        self._spent = Counter({(at, Kind(int(kind))): int(calls) for at, kind, calls in recent})

    def take(self, kind: Kind = Kind.OTHER) -> bool:
        """Reserve one call or retry, just before making it. False if none is left now.

        A listing (LIST) is not interrupted in the middle: ask `may_list` before it.
        """
        now = time.time()
        with self._lock:
            reserve = self._limit * _RESERVES.get(kind, 0)
            has_bucket = kind not in {Kind.OTHER, Kind.LIST}
            if self._left(now) <= reserve or (has_bucket and self._tokens(kind, now) < 1):
                return False
            self._spent[_stamp(now), kind] += 1
            self._own += 1
            if len(self._spent) > MOST_STAMPS:
                self._spent = Counter({key: calls for key, calls in self._spent.items() if _is_recent(key[0], now)})
            return True

    def may_list(self) -> bool:
        """Whether the tasks may be listed again: the calls of the last listings are paid off."""
        with self._lock:
            return self._tokens(Kind.LIST, time.time()) >= 1

    def available(self, kind: Kind) -> int:
        """How many calls of this kind `take` would grant now."""
        now = time.time()
        with self._lock:
            return max(0, min(self._left(now), int(self._tokens(kind, now))))

    def seconds_until(self, kind: Kind) -> int:
        """How long until `take` may grant a call of a kind with a share of its own, from 1 to WINDOW."""
        now = time.time()
        with self._lock:
            oldest = min((at for at, _ in self._calls(now, *Kind)), default=now)
            until_any = oldest + WINDOW - now if self._left(now) <= 0 else 0.0
            until_bucket = (1 - self._tokens(kind, now)) * WINDOW / max(self._bucket(kind, now)[1], 1)
        return min(WINDOW, max(1, math.ceil(max(until_any, until_bucket))))

    def left(self) -> int:
        with self._lock:
            return max(0, self._left(time.time()))

    def recent(self) -> Calls:
        with self._lock:
            return self._recent(Counter())

    def learn_outside(self, recent: Calls) -> None:
        """Count the calls outside of rounds that were stored since this budget was made."""
        with self._lock:
            for at, kind, calls in recent:
                if kind in _OUTSIDE:
                    self._spent[at, Kind(int(kind))] = max(int(calls), self._spent[at, Kind(int(kind))])

    def needs_note(self) -> bool:
        """Whether the next call is not stored in the database yet."""
        with self._lock:
            return self._own >= self._noted

    def ahead(self) -> Calls:
        """`recent` plus some of the next calls: stored in advance, so that the calls of a killed worker count."""
        ahead = max(1, min(self._limit // 20, MOST_AHEAD))
        with self._lock:
            self._noted = self._own + ahead
            return self._recent(Counter({(_stamp(time.time()), Kind.OTHER): ahead}))

    def _tokens(self, kind: Kind, now: float) -> float:
        """The tokens left in the bucket now, assuming that it was full a minute ago."""
        at_once, in_a_minute = self._bucket(kind, now)
        in_a_second = in_a_minute / WINDOW
        tokens, since = at_once, now - WINDOW
        kinds = _LOOKS if kind in _LOOKS else (kind,)
        for at, calls in [*self._calls(now, *kinds), (now, 0)]:
            tokens = min(at_once, tokens + in_a_second * max(0, at - since)) - calls
            since = at
        return tokens

    def _bucket(self, kind: Kind, now: float) -> tuple[float, float]:
        """(calls at once, calls that are added in a minute)."""
        limit = self._limit
        if kind in _SHARES:
            at_once, in_a_minute = _SHARES[kind]
            return max(1, limit * at_once), limit * in_a_minute
        share, less_important = _RESTS[kind]
        left = max(0, limit * share - self._count(now, *set(Kind) - less_important - {kind}))
        match kind:
            case Kind.FIRST:
                return max(1, limit / 3), max(0, left - limit / 3)
            case Kind.MOVED:
                return max(1, limit / 6), max(limit / 12, left - limit / 6)
            case Kind.BACKFILL:
                return max(1, limit / 30), min(limit / 3, max(limit / 30, left - limit / 30))
        left = max(0, left - self._more_soon(now))
        # At once: what is added between two rounds and a little more, because rounds may be late.
        return max(1, left * 1.2 * ROUND / WINDOW), left

    def _more_soon(self, now: float) -> float:
        """How many more calls a minute of rounds like this one needs for active runs and lists than the last minute.

        Without this, the search takes the calls of the next rounds when a board is opened, and then stands still.
        """
        return sum(self._more_of(kind, now) for kind in (Kind.ACTIVE, Kind.LIST))

    def _more_of(self, kind: Kind, now: float) -> float:
        this_round = sum(calls for at, calls in self._calls(now, kind) if at > now - ROUND)
        soon = min(this_round * WINDOW / ROUND, self._limit * _SHARES[kind][1])
        return max(0.0, soon - self._count(now, kind))

    def _left(self, now: float) -> int:
        return self._limit - self._count(now, *Kind)

    def _count(self, now: float, *kinds: Kind) -> int:
        return sum(calls for _, calls in self._calls(now, *kinds))

    def _calls(self, now: float, *kinds: Kind) -> list[tuple[float, int]]:
        """(time, calls) of the last minute, oldest first."""
        found = [(at, calls) for (at, kind), calls in self._spent.items() if kind in kinds and _is_recent(at, now)]
        return sorted(found)

    def _recent(self, more: Counter[tuple[float, Kind]]) -> Calls:
        spent, now = self._spent + more, time.time()
        return [[at, kind, calls] for (at, kind), calls in sorted(spent.items()) if _is_recent(at, now)]


def _stamp(now: float) -> float:
    """Rounded up, so that a call never counts for less than a minute."""
    return math.ceil(now * 10) / 10


def _is_recent(at: float, now: float) -> bool:
    return now - WINDOW < at <= now + WINDOW


def reserve(credential: Credential, kind: Kind) -> bool:
    """Reserve one call outside of a round. False if none is left now.

    Locks the key, so that concurrent processes do not take the same call.
    """
    with transaction.atomic():
        return _reserve(credential, kind) == 0


def reserve_for_script(credential: Credential) -> int:
    """Reserve one call of a script. Returns 0, or if none is left now, in how many seconds to try again."""
    if _take_if_unchanged(credential):
        return 0
    with soft_commit():
        return _reserve(credential, Kind.SCRIPT)


def _take_if_unchanged(credential: Credential) -> bool:
    """Reserve a call with one conditional UPDATE. False if none is left, or if another process took one since the key
    was read.
    """
    known = credential.recent_calls
    budget = Budget(settings.ARIZE_CALLS_PER_MINUTE, known)
    if not budget.take(Kind.SCRIPT):
        return False
    with soft_statement() as before:
        unchanged = {"recent_calls": known}
        return bool(
            update_row(Credential, credential.pk, only_if=unchanged, before=before, recent_calls=budget.recent())
        )


def _reserve(credential: Credential, kind: Kind) -> int:
    """0 if it is reserved, else the seconds to wait."""
    (recent,) = _locked_calls().rows(pk=credential.pk)
    budget = Budget(settings.ARIZE_CALLS_PER_MINUTE, recent)
    if not budget.take(kind):
        return budget.seconds_until(kind)
    update_row(Credential, credential.pk, recent_calls=budget.recent())
    return 0


@cache
def _locked_calls() -> Prepared[Calls]:
    row = Credential.objects.filter(pk=Slot("pk", UUIDField())).select_for_update(no_key=True)
    return Prepared(row.values_list("recent_calls", flat=True))
