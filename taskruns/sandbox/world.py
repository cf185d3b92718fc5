"""The simulated world: time, tasks, their runs at any moment, and the operations on them.

Without operations, the world depends only on seed and simulated time: plans are drawn lazily from each task's schedule
and states are computed from plans, so neither reads nor thread timing change anything. One lock protects all of it.
"""

import bisect
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from .catalogue import SPACES, Task, User, build_tasks
from .runs import AT_ONCE, CancelEffect, Counts, Plan, Run, State, Status, build_run
from .schedule import added_plan, plans

_NUMBERS_PER_TASK = 100_000
_FIRST_ADDED_NUMBER = 900_000_001


class Clock:
    """Converts the wall clock to simulated time, and simulated time to the UTC times that are shown.

    Simulated time is in milliseconds since the start of the world, negative before it. Times are shown in real time: a
    run of 300 simulated seconds at speed 10 takes 30 seconds and is shown that way, so no time lies in the future.
    Times before the start are shown unscaled. At speed 0 only `advance` moves the clock, possibly ahead of the wall
    clock.
    """

    def __init__(self, *, speed: float, epoch: datetime | None) -> None:
        self._speed = speed
        self._scale = speed or 1.0
        self._epoch = epoch or datetime.now(UTC)
        self._started = time.monotonic()
        self._advanced_ms = 0
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        elapsed = (time.monotonic() - self._started) * self._speed
        with self._lock:
            return int(elapsed * 1000) + self._advanced_ms

    def advance(self, milliseconds: int) -> None:
        with self._lock:
            self._advanced_ms += milliseconds

    @property
    def tick_ms(self) -> int:
        """The number of simulated milliseconds that are shown as one."""
        return math.ceil(self._scale)

    def shown(self, simulated_ms: int) -> datetime:
        """The UTC time that is shown for this simulated time."""
        scaled = simulated_ms / self._scale if simulated_ms > 0 else simulated_ms
        return self._epoch + timedelta(milliseconds=int(scaled))

    def simulated(self, shown: datetime) -> int:
        """The inverse of `shown`, in simulated milliseconds."""
        scaled = -((self._epoch - shown) // timedelta(milliseconds=1))  # rounded up: `shown` rounds down
        return math.ceil(scaled * self._scale) if scaled > 0 else scaled


class RunAlreadyEnded(Exception):
    """Only pending and running runs can be cancelled."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class ExperimentNameTaken(Exception):
    """Experiment names are unique in their dataset."""


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run and its state at the time of the request."""

    run: Run
    state: State


@dataclass(frozen=True, slots=True)
class SeenTask:
    """`last_run_ms`: creation of the latest run. Arize does not document whether it means start or end."""

    task: Task
    last_run_ms: int | None
    experiment_ids: tuple[str, ...]


@dataclass(slots=True)
class _Timeline:
    schedule: Iterator[Plan]
    upcoming: Plan
    drawn: int = 0
    runs: list[Run] = field(default_factory=list)  # by creation, oldest first


class World:
    """`busy`: the number of tasks in each space that always have an active run."""

    def __init__(self, *, seed: int, tasks: int, clock: Clock, busy: int = 0) -> None:
        self._seed = seed
        self._busy = busy
        self._clock = clock
        self._lock = threading.Lock()
        self.tasks = build_tasks(seed=seed, count=tasks)
        self._timelines = {task.id: self._timeline(task) for task in self.tasks}
        self._runs: dict[str, Run] = {}
        self._added = 0
        self._experiments: set[tuple[str | None, str]] = set()  # dataset, name

    def _timeline(self, task: Task) -> _Timeline:
        schedule = plans(seed=self._seed, task=task, is_busy=task.index // len(SPACES) < self._busy)
        return _Timeline(schedule=schedule, upcoming=next(schedule))

    # Reading

    def seen_tasks(self, tasks: Sequence[Task]) -> list[SeenTask]:
        with self._lock:
            now_ms = self._catch_up()
            return [self._seen_task(task, now_ms=now_ms) for task in tasks]

    def runs_of(self, task: Task, *, status: Status | None = None) -> list[SeenRun]:
        """Newest first, all at one moment."""
        with self._lock:
            now_ms = self._catch_up()
            seen = [SeenRun(run, run.state(now_ms)) for run in reversed(self._timelines[task.id].runs)]
        return [one for one in seen if status is None or one.state.status is status]

    def find_run(self, run_id: str) -> SeenRun | None:
        with self._lock:
            now_ms = self._catch_up()
            run = self._runs.get(run_id)
            return None if run is None else SeenRun(run, run.state(now_ms))

    def _seen_task(self, task: Task, *, now_ms: int) -> SeenTask:
        runs = self._timelines[task.id].runs
        return SeenTask(
            task=task,
            last_run_ms=runs[-1].plan.created_ms if runs else None,
            experiment_ids=tuple(run.experiment_id for run in runs[-10:] if run.experiment_in(run.state(now_ms))),
        )

    # Acting

    def cancel(self, run: Run, *, effect: CancelEffect = AT_ONCE) -> SeenRun:
        """End the run, immediately unless `effect` differs, and keep its counts. Raises RunAlreadyEnded."""
        with self._lock:
            now_ms = self._catch_up()
            state = run.state(now_ms)
            if not state.status.is_active:
                raise RunAlreadyEnded(state.status)
            if effect.after_ms is not None:
                run.cancelled_ms = now_ms + effect.after_ms
            return SeenRun(run, state.cancelled(now_ms) if effect.claimed else run.state(now_ms))

    def pin(self, run: Run, *, status: Status | None, failure_reason: str | None) -> SeenRun:
        """Fix the run in a status; without one, in its present status."""
        with self._lock:
            now_ms = self._catch_up()
            run.pinned = _pinned(run.state(now_ms), status=status, failure_reason=failure_reason, now_ms=now_ms)
            run.cancelled_ms = None
            return SeenRun(run, run.pinned)

    def add_runs(self, task: Task, *, status: Status, count: int, failure_reason: str | None) -> list[SeenRun]:
        """Create runs now, oldest first. Active ones continue like any other."""
        with self._lock:
            runs = [self._add(task, status=status, failure_reason=failure_reason) for _ in range(count)]
            now_ms = self._clock.now_ms()
            return [SeenRun(run, run.state(now_ms)) for run in runs]

    def trigger(
        self, task: Task, *, window_ms: tuple[int, int] | None, experiment_name: str | None, by: User
    ) -> SeenRun:
        """Create a pending run now, which continues like any other. Raises ExperimentNameTaken."""
        with self._lock:
            if experiment_name is not None:
                self._take_name(task, experiment_name)
            plan = replace(self._plan(task, status=Status.PENDING), data_window_ms=window_ms, created_by=by)
            run = self._add_planned(task, plan)
            return SeenRun(run, run.state(self._clock.now_ms()))

    def _take_name(self, task: Task, name: str) -> None:
        if (task.dataset_id, name) in self._experiments:
            raise ExperimentNameTaken
        self._experiments.add((task.dataset_id, name))

    def _add(self, task: Task, *, status: Status, failure_reason: str | None) -> Run:
        plan = self._plan(task, status=status)
        run = self._add_planned(task, plan)
        if not status.is_active:
            counts = plan.outcome.counts if status is Status.COMPLETED else Counts()
            run.pinned = State(status, plan.created_ms, plan.created_ms, counts, failure_reason)
        return run

    def _plan(self, task: Task, *, status: Status) -> Plan:
        created_ms = self._next_creation_ms(task)
        chance = random.Random(f"{self._seed}:added:{self._added}")
        return added_plan(chance, task=task, status=status, created_ms=created_ms)

    def _add_planned(self, task: Task, plan: Plan) -> Run:
        run = build_run(number=_FIRST_ADDED_NUMBER + self._added, task=task, plan=plan, seed=self._seed)
        self._added += 1
        self._insert(run)
        return run

    def _next_creation_ms(self, task: Task) -> int:
        """Now, but later than the task's newest run even when shown, so that the times alone show which is newest."""
        now_ms = self._catch_up()
        runs = self._timelines[task.id].runs
        missing_ms = runs[-1].plan.created_ms + self._clock.tick_ms - now_ms if runs else 0
        if missing_ms <= 0:
            return now_ms
        self._clock.advance(missing_ms)
        return self._catch_up()

    # Time

    def _catch_up(self) -> int:
        """Draw the runs created so far and return the simulated time. Call it under the lock."""
        now_ms = self._clock.now_ms()
        for task in self.tasks:
            timeline = self._timelines[task.id]
            while timeline.upcoming.created_ms <= now_ms:
                self._insert(self._next_run(task, timeline))
        return now_ms

    def _next_run(self, task: Task, timeline: _Timeline) -> Run:
        timeline.drawn += 1
        number = task.number * _NUMBERS_PER_TASK + timeline.drawn
        run = build_run(number=number, task=task, plan=timeline.upcoming, seed=self._seed)
        timeline.upcoming = next(timeline.schedule)
        return run

    def _insert(self, run: Run) -> None:
        bisect.insort(self._timelines[run.task.id].runs, run, key=lambda other: other.place)
        self._runs[run.id] = run


def _pinned(state: State, *, status: Status | None, failure_reason: str | None, now_ms: int) -> State:
    reason = failure_reason if failure_reason is not None or status is not None else state.failure_reason
    status = status or state.status
    if status is Status.PENDING:
        return State(status, failure_reason=reason)
    return State(
        status,
        started_ms=now_ms if state.started_ms is None else state.started_ms,
        finished_ms=None if status.is_active else (state.finished_ms or now_ms),
        counts=state.counts,
        failure_reason=reason,
    )
