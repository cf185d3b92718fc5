"""When a task's runs are created, start and end, and with what outcome. It depends only on seed and task.

Times are milliseconds of simulated time. The world starts at 0, and each task has three to eight ended runs before
that. A busy task always has a pending or running run, unless it is cancelled: the next run starts when one ends.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .catalogue import DAY_MS, USERS, Task
from .runs import Counts, Outcome, Plan, Status

# Spread the past over days, so that a board shows more history than the last few hours.
_PAST_STRETCH = 8
_GOLDEN = 0.618034
_FAILURES = (
    "The model provider rejected the request: rate limit exceeded for gpt-4o-mini (HTTP 429), 5 attempts.",
    "Evaluator output could not be parsed: expected one of 'relevant', 'irrelevant'.",
    "The model integration answered 503 Service Unavailable; the run stopped after 25 consecutive errors.",
    "Query for matching spans timed out after 120 seconds.",
)
# (reason, least and most seconds): cancels by Arize itself, with counts 0/0/0.
_CANCELS_BY_ARIZE = (
    ("All matching data already has labels. Trigger with override_evaluations to evaluate it again.", 1, 3),
    ("The integration credentials are invalid or have expired.", 1, 2),
    ("The code evaluator could not be imported: wrong import or signature.", 2, 4),
    ("No data found in the selected time range.", 1, 3),
    ("The model 'gpt-4-0314' is not available with this integration.", 150, 200),
)


def plans(*, seed: int, task: Task, is_busy: bool = False) -> Iterator[Plan]:
    """The task's runs in order of creation. Infinite."""
    chance = random.Random(f"{seed}:schedule:{task.number}")
    past = [_past_cycle(chance, task=task) for _ in range(chance.randint(3, 8))]
    if is_busy:
        present = _busy_cycle(chance)
        elapsed_ms = _spread(chance, cycle=present, task=task)
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


def added_plan(chance: random.Random, *, task: Task, status: Status, created_ms: int) -> Plan:
    """The plan of a run that is created on demand, outside the schedule."""
    return Plan(
        created_ms=created_ms,
        started_ms=created_ms + (20_000 if status is Status.PENDING else 0),
        outcome=_completed(chance, with_errors=False),
        data_window_ms=_data_window(chance, task=task, created_ms=created_ms),
        created_by=chance.choice(USERS),
    )


def _plan(chance: random.Random, *, task: Task, created_ms: int, cycle: "_Cycle") -> Plan:
    return Plan(
        created_ms=created_ms,
        started_ms=created_ms + cycle.pending_ms,
        outcome=cycle.outcome,
        data_window_ms=_data_window(chance, task=task, created_ms=created_ms),
        created_by=None if task.is_continuous else chance.choice(USERS),
    )


def _data_window(chance: random.Random, *, task: Task, created_ms: int) -> tuple[int, int] | None:
    """The time window to evaluate. Tasks on a dataset have none."""
    span_ms = chance.choice((DAY_MS // 24, DAY_MS, 7 * DAY_MS))
    if task.project_id is None:
        return None
    return (created_ms - (600_000 if task.is_continuous else span_ms), created_ms)


# Cycles: the pause before a run, and the run


@dataclass(frozen=True, slots=True)
class _Cycle:
    wait_ms: int
    pending_ms: int
    outcome: Outcome

    @property
    def length_ms(self) -> int:
        return self.wait_ms + self.pending_ms + self.outcome.running_ms


def _cycle(chance: random.Random, *, task: Task) -> _Cycle:
    mean_wait_ms = 8 * 60_000 if task.is_continuous else 25 * 60_000
    return _Cycle(
        wait_ms=int(mean_wait_ms * chance.uniform(0.3, 1.6)),
        pending_ms=chance.choice((1_500, 3_000, 6_000, 15_000, 45_000)) + chance.randrange(1_000),
        outcome=_outcome(chance, continuous=task.is_continuous),
    )


def _busy_cycle(chance: random.Random) -> _Cycle:
    """A run takes minutes, so that a client that polls sees most runs while they are active."""
    return _Cycle(
        wait_ms=0,
        pending_ms=chance.choice((1_500, 3_000, 6_000, 15_000)) + chance.randrange(1_000),
        outcome=_outcome(chance, continuous=False),
    )


def _past_cycle(chance: random.Random, *, task: Task) -> _Cycle:
    cycle = _cycle(chance, task=task)
    return replace(cycle, wait_ms=cycle.wait_ms * _PAST_STRETCH)


def _present_cycle(chance: random.Random, *, task: Task) -> _Cycle:
    """Make the first two tasks active at the start, so that even a small world has something to show."""
    cycle = _cycle(chance, task=task)
    if task.index > 1:
        return cycle
    return replace(cycle, pending_ms=40_000, outcome=_completed(chance, with_errors=task.index == 1))


def _elapsed_ms(chance: random.Random, *, cycle: _Cycle, task: Task) -> int:
    """How much of the present cycle has already passed at the start."""
    if task.index == 0:
        return cycle.wait_ms + cycle.pending_ms + cycle.outcome.running_ms // 4
    if task.index == 1:
        return cycle.wait_ms + cycle.pending_ms // 2
    return _spread(chance, cycle=cycle, task=task)


def _spread(chance: random.Random, *, cycle: _Cycle, task: Task) -> int:
    """Spread the tasks evenly over their cycles."""
    phase = (task.index * _GOLDEN + chance.uniform(0, 0.02)) % 1
    return int(cycle.length_ms * phase)


# Outcomes


def _outcome(chance: random.Random, *, continuous: bool) -> Outcome:
    """About 60% complete, 16% complete with errors, 12% fail, 12% are cancelled by Arize itself."""
    drawn = chance.random()
    if drawn < 0.12:
        return _cancelled_by_arize(chance)
    if drawn < 0.24:
        return _failed(chance)
    return _completed(chance, with_errors=drawn < 0.40, longest_s=120 if continuous else 480)


def _completed(chance: random.Random, *, with_errors: bool, longest_s: int = 480) -> Outcome:
    running_ms = chance.randint(60_000, longest_s * 1000)
    items = running_ms * chance.randint(4, 30) // 1000
    errors = max(1, int(items * chance.uniform(0.005, 0.2))) if with_errors else 0
    skipped = int(items * chance.choice((0, 0, 0.02, 0.05)))
    return Outcome(Status.COMPLETED, running_ms, Counts(items - errors - skipped, errors, skipped))


def _failed(chance: random.Random) -> Outcome:
    running_ms = chance.randint(20_000, 300_000)
    items = running_ms * chance.randint(2, 20) // 1000
    errors = items // chance.randint(2, 9)
    return Outcome(Status.FAILED, running_ms, Counts(items - errors, errors, 0), chance.choice(_FAILURES))


def _cancelled_by_arize(chance: random.Random) -> Outcome:
    reason, least_s, most_s = chance.choice(_CANCELS_BY_ARIZE)
    return Outcome(Status.CANCELLED, chance.randint(least_s * 1000, most_s * 1000), Counts(), reason)
