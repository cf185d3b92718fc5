"""When a task's runs are created, start and end: a function of seed and task, decided before anyone asks.

A busy task always has one that is pending or running, unless somebody stops it: the next begins as one ends.
All times are simulated milliseconds; the world starts at 0; each task has three to eight ended runs before it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from taskruns.sandbox.catalogue import DAY_MS, USERS, Task, User
from taskruns.sandbox.outcomes import Outcome, completed, draw_outcome

# The past is spread over days, so that a board has history and not only the last hours.
_PAST_STRETCH = 8
_GOLDEN = 0.618034


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's whole life, if nobody interferes."""

    created_ms: int
    started_ms: int
    outcome: Outcome
    data_window_ms: tuple[int, int] | None
    created_by: User | None

    @property
    def finished_ms(self) -> int:
        return self.started_ms + self.outcome.running_ms


@dataclass(frozen=True, slots=True)
class _Cycle:
    wait_ms: int
    pending_ms: int
    outcome: Outcome

    @property
    def length_ms(self) -> int:
        return self.wait_ms + self.pending_ms + self.outcome.running_ms


def plans(*, seed: int, task: Task, is_busy: bool = False) -> Iterator[Plan]:
    """The task's runs in order of creation, without end."""
    chance = random.Random(f"{seed}:schedule:{task.number}")
    past = [_past_cycle(chance, task=task) for _ in range(chance.randint(3, 8))]
    if is_busy:
        present = _busy_cycle(chance)
        elapsed_ms = _evenly(chance, cycle=present, task=task)
    else:
        present = _present_cycle(chance, task=task)
        elapsed_ms = _elapsed_ms(chance, cycle=present, task=task)
    clock_ms = -sum(cycle.length_ms for cycle in past) - elapsed_ms
    for cycle in (*past, present):
        yield _plan(chance, task=task, created_ms=clock_ms + cycle.wait_ms, cycle=cycle)
        clock_ms += cycle.length_ms
    while True:
        cycle = _busy_cycle(chance) if is_busy else _cycle(chance, task=task)
        yield _plan(chance, task=task, created_ms=clock_ms + cycle.wait_ms, cycle=cycle)
        clock_ms += cycle.length_ms


def _cycle(chance: random.Random, *, task: Task) -> _Cycle:
    mean_wait_ms = 8 * 60_000 if task.is_continuous else 25 * 60_000
    return _Cycle(
        wait_ms=int(mean_wait_ms * chance.uniform(0.3, 1.6)),
        pending_ms=chance.choice((1_500, 3_000, 6_000, 15_000, 45_000)) + chance.randrange(1_000),
        outcome=draw_outcome(chance, continuous=task.is_continuous),
    )


def _busy_cycle(chance: random.Random) -> _Cycle:
    """Of some minutes: who reads now and then sees most of them going on."""
    return _Cycle(
        wait_ms=0,
        pending_ms=chance.choice((1_500, 3_000, 6_000, 15_000)) + chance.randrange(1_000),
        outcome=draw_outcome(chance, continuous=False),
    )


def _past_cycle(chance: random.Random, *, task: Task) -> _Cycle:
    cycle = _cycle(chance, task=task)
    return replace(cycle, wait_ms=cycle.wait_ms * _PAST_STRETCH)


def _present_cycle(chance: random.Random, *, task: Task) -> _Cycle:
    """The first two tasks are active at the start of every world: even a small one has something to show."""
    cycle = _cycle(chance, task=task)
    if task.index > 1:
        return cycle
    return replace(cycle, pending_ms=40_000, outcome=completed(chance, with_errors=task.index == 1))


def _elapsed_ms(chance: random.Random, *, cycle: _Cycle, task: Task) -> int:
    """How much of the present cycle has passed at the start; spread evenly over the tasks, not by luck."""
    if task.index == 0:
        return cycle.wait_ms + cycle.pending_ms + cycle.outcome.running_ms // 4
    if task.index == 1:
        return cycle.wait_ms + cycle.pending_ms // 2
    return _evenly(chance, cycle=cycle, task=task)


def _evenly(chance: random.Random, *, cycle: _Cycle, task: Task) -> int:
    phase = (task.index * _GOLDEN + chance.uniform(0, 0.02)) % 1
    return int(cycle.length_ms * phase)


def _plan(chance: random.Random, *, task: Task, created_ms: int, cycle: _Cycle) -> Plan:
    return Plan(
        created_ms=created_ms,
        started_ms=created_ms + cycle.pending_ms,
        outcome=cycle.outcome,
        data_window_ms=data_window(chance, task=task, created_ms=created_ms),
        created_by=None if task.is_continuous else chance.choice(USERS),
    )


def data_window(chance: random.Random, *, task: Task, created_ms: int) -> tuple[int, int] | None:
    """The window that is evaluated; it does not apply to tasks on a dataset."""
    span_ms = chance.choice((DAY_MS // 24, DAY_MS, 7 * DAY_MS))
    if task.project_id is None:
        return None
    return (created_ms - (600_000 if task.is_continuous else span_ms), created_ms)
