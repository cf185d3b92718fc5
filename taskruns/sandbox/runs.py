"""One run: its plan, what somebody did to it, and so its state at any simulated time."""

from dataclasses import dataclass, field, replace

from taskruns.sandbox.catalogue import Task, TaskType
from taskruns.sandbox.identifiers import identifier
from taskruns.sandbox.outcomes import Counts, Status
from taskruns.sandbox.schedule import Plan


@dataclass(frozen=True, slots=True)
class State:
    """What Arize would answer now; times in simulated milliseconds."""

    status: Status
    started_ms: int | None = None
    finished_ms: int | None = None
    counts: Counts = field(default_factory=Counts)
    failure_reason: str | None = None

    def cancelled(self, at_ms: int) -> "State":
        """As a cancel leaves it: the counts stay."""
        return replace(self, status=Status.CANCELLED, finished_ms=at_ms)


@dataclass(frozen=True, slots=True)
class CancelEffect:
    """`after_ms`: simulated milliseconds until the run ends; None: never. `claimed`: the answer says CANCELLED."""

    after_ms: int | None = 0
    claimed: bool = False


AT_ONCE = CancelEffect()


@dataclass(slots=True)
class Run:
    """`held` is set once somebody interfered: from then on the run stays so and the plan is void.

    `cancelled_ms` is when a cancel takes effect, unless the run ends before.
    """

    number: int
    id: str
    experiment_id: str
    task: Task
    plan: Plan
    held: State | None = None
    cancelled_ms: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in a list: by creation, then by number."""
        return (self.plan.created_ms, self.number)

    def state(self, now_ms: int) -> State:
        if self.cancelled_ms is None or now_ms < self.cancelled_ms:
            return self._uncancelled(now_ms)
        state = self._uncancelled(self.cancelled_ms)
        return state.cancelled(self.cancelled_ms) if state.status.is_active else state

    def _uncancelled(self, now_ms: int) -> State:
        if self.held is not None:
            return self.held
        if now_ms < self.plan.started_ms:
            return State(Status.PENDING)
        if now_ms < self.plan.finished_ms:
            return self._running(now_ms)
        return self._ended()

    def experiment_in(self, state: State) -> str | None:
        """The experiment this run made; Arize fills it in once provisioned, here when the run starts."""
        provisioned = self.task.type is TaskType.RUN_EXPERIMENT and state.started_ms is not None
        return self.experiment_id if provisioned else None

    def _running(self, now_ms: int) -> State:
        share = (now_ms - self.plan.started_ms) / self.plan.outcome.running_ms
        return State(Status.RUNNING, self.plan.started_ms, counts=self.plan.outcome.counts.at(share))

    def _ended(self) -> State:
        outcome = self.plan.outcome
        return State(
            outcome.ending,
            self.plan.started_ms,
            self.plan.finished_ms,
            outcome.counts,
            outcome.failure_reason,
        )


def build_run(*, number: int, task: Task, plan: Plan, seed: int) -> Run:
    return Run(
        number=number,
        id=identifier(kind="TaskRun", number=number, seed=seed),
        experiment_id=identifier(kind="Experiment", number=number, seed=seed),
        task=task,
        plan=plan,
    )
