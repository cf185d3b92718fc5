"""A run: its plan, the changes made to it, and its resulting state at any moment.

Times are milliseconds of simulated time; the world starts at 0.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from .catalogue import Task, TaskType, User, identifier


class Status(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_active(self) -> bool:
        return self in {Status.PENDING, Status.RUNNING}


@dataclass(frozen=True, slots=True)
class Counts:
    """Processed items so far (spans, traces, sessions or examples)."""

    successes: int = 0
    errors: int = 0
    skipped: int = 0

    def at(self, share: float) -> "Counts":
        """The part of these final counts that is reached after `share` (0 to 1) of the time."""
        return Counts(int(self.successes * share), int(self.errors * share), int(self.skipped * share))


@dataclass(frozen=True, slots=True)
class Outcome:
    status: Status
    running_ms: int
    counts: Counts
    failure_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's whole life, unless something changes it."""

    created_ms: int
    started_ms: int
    outcome: Outcome
    data_window_ms: tuple[int, int] | None
    created_by: User | None

    @property
    def finished_ms(self) -> int:
        return self.started_ms + self.outcome.running_ms


@dataclass(frozen=True, slots=True)
class State:
    """The state that Arize would return now."""

    status: Status
    started_ms: int | None = None
    finished_ms: int | None = None
    counts: Counts = field(default_factory=Counts)
    failure_reason: str | None = None

    def cancelled(self, at_ms: int) -> "State":
        """The state after a cancel. The counts stay."""
        return replace(self, status=Status.CANCELLED, finished_ms=at_ms)


@dataclass(frozen=True, slots=True)
class CancelEffect:
    """`after_ms`: milliseconds until the run ends, or None for never. `claimed`: the answer says CANCELLED anyway."""

    after_ms: int | None = 0
    claimed: bool = False


AT_ONCE = CancelEffect()


@dataclass(slots=True)
class Run:
    """`pinned`: a state set by a control, which replaces the plan. `cancelled_ms`: when a cancel takes effect, unless
    the run ends earlier.
    """

    number: int
    id: str
    experiment_id: str
    task: Task
    plan: Plan
    pinned: State | None = None
    cancelled_ms: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        """The sort key in lists: creation, then number."""
        return (self.plan.created_ms, self.number)

    def state(self, now_ms: int) -> State:
        if self.cancelled_ms is None or now_ms < self.cancelled_ms:
            return self._uncancelled(now_ms)
        state = self._uncancelled(self.cancelled_ms)
        return state.cancelled(self.cancelled_ms) if state.status.is_active else state

    def experiment_in(self, state: State) -> str | None:
        """The run's experiment. Arize sets it once it is provisioned, the sandbox when the run starts."""
        is_provisioned = self.task.type is TaskType.RUN_EXPERIMENT and state.started_ms is not None
        return self.experiment_id if is_provisioned else None

    def _uncancelled(self, now_ms: int) -> State:
        if self.pinned is not None:
            return self.pinned
        if now_ms < self.plan.started_ms:
            return State(Status.PENDING)
        if now_ms < self.plan.finished_ms:
            return self._running(now_ms)
        return self._ended()

    def _running(self, now_ms: int) -> State:
        share = (now_ms - self.plan.started_ms) / self.plan.outcome.running_ms
        return State(Status.RUNNING, self.plan.started_ms, counts=self.plan.outcome.counts.at(share))

    def _ended(self) -> State:
        plan, outcome = self.plan, self.plan.outcome
        return State(outcome.status, plan.started_ms, plan.finished_ms, outcome.counts, outcome.failure_reason)


def build_run(*, number: int, task: Task, plan: Plan, seed: int) -> Run:
    return Run(
        number=number,
        id=identifier(kind="TaskRun", number=number, seed=seed),
        experiment_id=identifier(kind="Experiment", number=number, seed=seed),
        task=task,
        plan=plan,
    )
