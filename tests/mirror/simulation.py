"""Simulated minutes of one key: Arize in this process, a clock that moves from tick to tick, new runs at random times.

Answers take no time, so delays are those of the pace and the order of the calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from django.utils import timezone

from taskruns.models import Credential, Run, Task, Team
from taskruns.services.mirror import due, refresh
from taskruns.services.mirror.staleness import board_ages
from tests.fake_arize import START, World

TICK = 5  # seconds
LASTS = 60  # seconds that a new run is active
A_MINUTE = 60
MICROSECOND = timedelta(microseconds=1)
A_WHILE = timedelta(seconds=30)


@dataclass
class Simulation:
    """`counted`: the calls that the fake has received at each second. `delays`: from the creation of each new run in
    Arize until it is in the mirror, in seconds. `searched`: how old `searched_at` is after each tick, in seconds.
    """

    world: World
    clock: Any
    key: Credential
    counted: dict[int, int] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    searched: dict[int, float | None] = field(default_factory=dict)
    unseen: dict[str, float] = field(default_factory=dict)
    second: int = 0

    def run(self, seconds: int, *, before_tick: Callable[["Simulation"], None] = lambda _: None) -> None:
        """Tick every 5 s, as a worker does. `before_tick` changes Arize or the panel."""
        ends = self.second + seconds
        while self.second < ends:
            self.second += TICK
            self.clock.move_to(START + timedelta(seconds=self.second))
            before_tick(self)
            Team.objects.exclude(watched_at=None).update(watched_at=timezone.now())  # open boards stay open
            before = len(self.world.calls)
            if self.key.pk in due(timezone.now()):
                refresh(self.key.pk)
            self.counted[self.second] = len(self.world.calls) - before
            self._note_seen()
            at = board_ages([self.key.team_id]).searched_at
            self.searched[self.second] = None if at is None else (timezone.now() - at).total_seconds()

    def add_run(self, task: str, at: float, *, has_hint: bool, status: str = "RUNNING") -> str:
        """A run that Arize creates `at` seconds after the start. `has_hint`: the task's `last_run_at` moves."""
        id_ = f"new-{len(self.delays) + len(self.unseen)}-{task}"
        created = START + timedelta(seconds=at)
        self.world.run(id_, task, status, created_at=created.isoformat(), run_started_at=created.isoformat())
        if has_hint:
            self.world.tasks[task]["last_run_at"] = created.isoformat()
        self.unseen[id_] = at
        return id_

    def most_in_a_minute(self) -> int:
        return max(
            sum(calls for at, calls in self.counted.items() if start <= at < start + A_MINUTE) for start in self.counted
        )

    def _note_seen(self) -> None:
        seen = Run.objects.filter(team=self.key.team_id, arize_id__in=self.unseen)
        self.delays += [self.second - self.unseen.pop(id_) for id_ in seen.values_list("arize_id", flat=True)]


@dataclass
class NewRuns:
    """Called before each tick: adds runs to random idle tasks and ends them after a minute.

    `every`: the mean distance of two runs, in seconds.
    """

    idle: list[str]
    has_hint: bool
    every: float = 15
    until: int = 10**9
    chance: Random = field(default_factory=lambda: Random(7))
    next_at: float = 0.0
    active: list[tuple[float, str, str]] = field(default_factory=list)

    def __call__(self, simulation: Simulation) -> None:
        while self.next_at < min(simulation.second, self.until):
            task = self.chance.choice(self.idle)
            id_ = simulation.add_run(task, self.next_at, has_hint=self.has_hint)
            self.active.append((self.next_at + LASTS, task, id_))
            self.next_at += self.chance.uniform(0, 2 * self.every)
        for ends, task, id_ in [each for each in self.active if each[0] <= simulation.second]:
            self.active.remove((ends, task, id_))
            run = next(run for run in simulation.world.runs[task] if run["id"] == id_)
            run["status"] = "COMPLETED"


def fill(world: World, key: Credential, *, tasks: int, active: int, spaces: int = 1) -> list[str]:
    """Tasks that are mirrored already, the first of them with an active run each. Returns the ids of the idle ones."""
    rows = []
    for number in range(tasks):
        ran = f"2026-11-22T{number // 60:02}:{number % 60:02}:00Z"
        world.task(f"T{number}", space=f"S{number % spaces}", last_run_at=ran)
        row = Task(team=key.team, endpoint=key.endpoint, arize_id=f"T{number}", credential=key, name=f"Task T{number}")
        row.last_run_at = row.runs_read_to = datetime.fromisoformat(ran)
        row.runs_read_at = row.caught_up_at = row.searched_at = START - A_WHILE - MICROSECOND * (tasks - number)
        rows.append(row)
    Task.objects.bulk_create(rows)
    Credential.objects.filter(pk=key.pk).update(first_contact_done_at=START, tasks_read_at=START - timedelta(minutes=1))
    for number in range(active):
        world.run(f"active-{number}", f"T{number}")
    return [f"T{number}" for number in range(active, tasks)]


def watch(team: Team) -> None:
    """A board of the team is open until further notice."""
    Team.objects.filter(pk=team.pk).update(watched_at=timezone.now())


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]
