"""The plan of a chaos run: everything that is decided before it begins, from a seed.

Each kind has its own sequence of random numbers, so leaving one out does not change the others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Kind(StrEnum):
    # At Arize
    STORM = "storm"  # 429 and 5xx; a share of the cancels answered so has an effect all the same
    CUT = "cut"  # connections cut before, in or after the answer
    HANG = "hang"  # accepts, never answers
    SLOW = "slow"  # answers late
    BLIP = "blip"  # a moment of 401
    AWAY = "away"  # refuses connections
    REPEAT = "repeat"  # lists that give the same page again
    OUTSIDE = "outside"  # somebody outside the panel cancels a run
    BIRTH = "birth"  # a new run of a task
    # At the panel
    KILL_WORKER = "kill_worker"
    KILL_WEB = "kill_web"
    TERMINATE = "terminate"  # PostgreSQL ends the panel's connections
    KILL_REDIS = "kill_redis"
    JUMP = "jump"  # stamps as they are after the clock was an hour ahead
    # People
    CLICK = "click"
    CLICK_TOGETHER = "click_together"
    BATCH = "batch"


NORTH, HELD, CALM = "north", "held", "calm"  # keys, and the teams of the same names
HUNG = tuple(f"hung-{number}" for number in range(1, 7))  # keys of one team
HUNG_TEAM = "hung"
KEYS = (NORTH, HELD, CALM, *HUNG)
TEAMS = {NORTH: (NORTH,), HELD: (HELD,), CALM: (CALM,), HUNG_TEAM: HUNG}
TASKS = {NORTH: 6, HELD: 4, CALM: 3} | dict.fromkeys(HUNG, 1)
# A killed worker's claim on a key lasts this long (seconds), which is no fault of the hung keys.
CLAIM_LASTS = 45.0


@dataclass(frozen=True, order=True)
class Event:
    """`at` and `lasts` in seconds from the start. `chance`: a number in 0..1 that chooses, for example which run."""

    at: float
    kind: Kind
    whom: str = ""
    lasts: float = 0.0
    chance: float = 0.0


@dataclass(frozen=True)
class _Rhythm:
    """About one event every `every` seconds, each lasting from `shortest` to `longest` seconds."""

    every: float
    whom: tuple[str, ...] = ("",)
    shortest: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True)
class Plan:
    seed: int
    seconds: float
    workers: int = 1
    webs: int = 1
    has_postgres: bool = False
    has_redis: bool = False
    without: frozenset[Kind] = frozenset()

    def events(self) -> list[Event]:
        found = [event for kind, rhythm in self._rhythms() for event in self._of(kind, rhythm)]
        hung = list(self._hung_spans())
        return sorted([event for event in found if not self._disturbs(event, hung)] + hung)

    def _rhythms(self) -> Iterator[tuple[Kind, _Rhythm]]:
        ours = (NORTH, HELD)
        yield Kind.STORM, _Rhythm(20, ours, 2, 6)
        yield Kind.CUT, _Rhythm(20, ours, 2, 6)
        yield Kind.SLOW, _Rhythm(30, ours, 2, 6)
        yield Kind.BLIP, _Rhythm(120, ours, 0.5, 1.5)
        yield Kind.AWAY, _Rhythm(60, ("",), 0.5, 2)
        yield Kind.REPEAT, _Rhythm(60, ours, 3, 10)
        yield Kind.OUTSIDE, _Rhythm(5, ours)
        yield Kind.BIRTH, _Rhythm(0.5, tasks_of(NORTH) * 3 + tasks_of(HELD))
        yield Kind.KILL_WORKER, _Rhythm(40, names("worker", self.workers), 0.5, 4)
        yield Kind.KILL_WEB, _Rhythm(40, names("web", self.webs), 0.2, 2)
        if self.has_postgres:
            yield Kind.TERMINATE, _Rhythm(30)
        if self.has_redis:
            yield Kind.KILL_REDIS, _Rhythm(90, ("redis",), 1, 15)
        yield Kind.JUMP, _Rhythm(200)
        yield Kind.CLICK, _Rhythm(0.6)
        yield Kind.CLICK_TOGETHER, _Rhythm(2)
        yield Kind.BATCH, _Rhythm(8)

    def _of(self, kind: Kind, rhythm: _Rhythm) -> Iterator[Event]:
        if kind in self.without:
            return
        chance = Random(f"{self.seed}:{kind}")
        number = max(1, round(self.seconds / rhythm.every))
        for _ in range(number):
            at = round(chance.uniform(0.05, 0.95) * self.seconds, 2)
            lasts = round(chance.uniform(rhythm.shortest, rhythm.longest), 2)
            yield Event(at, kind, chance.choice(rhythm.whom), min(lasts, self.seconds / 4), round(chance.random(), 4))

    def _hung_spans(self) -> Iterator[Event]:
        """All hung keys at once: more than a worker has threads."""
        if Kind.HANG in self.without:
            return
        chance = Random(f"{self.seed}:{Kind.HANG}")
        count = max(1, round(self.seconds / 300))
        share = self.seconds / count
        for number in range(count):
            lasts = min(60.0, share / 3)
            at = number * share + chance.uniform(0.2, 0.6) * share
            for key in HUNG:
                yield Event(round(at, 2), Kind.HANG, key, round(lasts, 2), round(chance.random(), 4))

    def _disturbs(self, event: Event, hung: Iterable[Event]) -> bool:
        """Long runs kill no worker and no queue shortly before and while keys hang: only those delay the others."""
        if event.kind not in {Kind.KILL_WORKER, Kind.KILL_REDIS, Kind.JUMP} or self.seconds < 4 * CLAIM_LASTS:
            return False
        return any(span.at - CLAIM_LASTS <= event.at <= span.at + span.lasts for span in hung)


@dataclass(frozen=True)
class RunPlan:
    """How a run lives, in seconds from its birth. `takes`: how it takes a cancel; `stops_after`: seconds, if slowly."""

    pending_for: float
    ends_after: float
    end: str  # completed or failed
    takes: str  # at_once, slowly, not_at_all, forbidden
    stops_after: float


def run_plan(seed: int, run: str) -> RunPlan:
    chance = Random(f"{seed}:run:{run}")
    takes = chance.choices(("at_once", "slowly", "not_at_all", "forbidden"), (80, 12, 4, 4))[0]
    return RunPlan(
        pending_for=chance.uniform(0, 2),
        ends_after=chance.choice((chance.uniform(3, 15), chance.uniform(15, 60), chance.uniform(60, 600))),
        end=chance.choices(("completed", "failed"), (4, 1))[0],
        takes=takes,
        stops_after=chance.uniform(1, 12),
    )


def tasks_of(key: str) -> tuple[str, ...]:
    return tuple(f"{key}/{number}" for number in range(TASKS[key]))


def names(process: str, count: int) -> tuple[str, ...]:
    return tuple(f"{process}-{number}" for number in range(1, count + 1))
