"""JSON of the objects: as the newest Arize sends it, as an older server does, or a mixture to test tolerance."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from .catalogue import ORGANIZATION_ID, Evaluator, Space, Task, TaskType, User, identifier
from .messages import Problem, iso
from .world import Clock, SeenRun, SeenTask

Body = dict[str, object]
Choice = TypeVar("Choice", bound=StrEnum)

# Members added in July 2026, together with the upper case, or later.
_UNKNOWN_TO_OLD_SERVERS = {
    "failure_reason",
    "run_configuration",
    "query_filters",
    "query_mappings",
    "evaluator_version_id",
    "organization_id",
}
_NEVER_LEFT_OUT = {"id", "task_id", "name", "status", "type", "created_at"}


class Wire(StrEnum):
    UPPER = "upper"
    LOWER = "lower"
    MIXED = "mixed"


class WireForm:
    """JSON bodies for one wire. In `mixed`, an object's number decides its case, fractions and missing members."""

    def __init__(self, wire: Wire, *, clock: Clock) -> None:
        self.wire = wire
        self._clock = clock

    def run(self, seen: SeenRun) -> Body:
        run, state = seen.run, seen.state
        number = run.number
        window = run.plan.data_window_ms or (None, None)
        return self._vary(
            {
                "id": run.id,
                "task_id": run.task.id,
                "experiment_id": run.experiment_in(state),
                "status": self._choice(state.status, number),
                "run_started_at": self._time(state.started_ms, number),
                "run_finished_at": self._time(state.finished_ms, number),
                "data_start_time": self._time(window[0], number),
                "data_end_time": self._time(window[1], number),
                "num_successes": state.counts.successes,
                "num_errors": state.counts.errors,
                "num_skipped": state.counts.skipped,
                "created_at": self._time(run.plan.created_ms, number),
                "created_by_user_id": run.plan.created_by and run.plan.created_by.id,
                "failure_reason": state.failure_reason,
            },
            number,
        )

    def task(self, seen: SeenTask) -> Body:
        task, number = seen.task, seen.task.number
        return self._vary(
            {
                "id": task.id,
                "name": task.name,
                "type": self._choice(task.type, number),
                "project_id": task.project_id,
                "dataset_id": task.dataset_id,
                "sampling_rate": task.sampling_rate,
                "is_continuous": task.is_continuous,
                "query_filter": task.query_filter,
                "query_filters": None,
                "evaluators": [self._evaluator(evaluator, number) for evaluator in task.evaluators],
                "experiment_ids": list(seen.experiment_ids),
                "run_configuration": self._run_configuration(task),
                "last_run_at": self._time(seen.last_run_ms, number),
                "created_at": self._time(task.created_ms, number),
                "updated_at": self._time(task.updated_ms, number),
                "created_by_user_id": task.created_by.id,
            },
            number,
        )

    def space(self, space: Space) -> Body:
        return self._vary(
            {
                "id": space.id,
                "organization_id": ORGANIZATION_ID,
                "name": space.name,
                "description": space.description,
                "created_at": self._time(space.created_ms, space.number),
                "is_private": space.is_private,
            },
            space.number,
        )

    def user(self, user: User) -> Body:
        return self._vary(
            {
                "id": user.id,
                "name": user.name,
                "email": user.email,
                "created_at": self._time(user.created_ms, user.number),
                "status": self._spell("ACTIVE", user.number),
                "role": self._spell(user.role, user.number),
                "is_developer": user.is_developer,
            },
            user.number,
        )

    def read_choice(self, name: str, text: str | None, choices: type[Choice]) -> Choice | None:
        """Read a filter value in this wire's case. Raises Problem 400."""
        if text is None:
            return None
        spellings = {self._spell(choice, number): choice for choice in choices for number in (0, 1)}
        if text in spellings:
            return spellings[text]
        raise Problem(400, f"{name} must be one of {', '.join(spellings)}.")

    def _evaluator(self, evaluator: Evaluator, number: int) -> Body:
        body: Body = {
            "evaluator_id": evaluator.id,
            "evaluator_name": evaluator.name,
            "evaluator_version_id": evaluator.version_id,
            "query_filter": None,
            "column_mappings": {"input": "attributes.input.value", "output": "attributes.output.value"},
            "query_mappings": None,
        }
        return self._vary(body, number)

    def _run_configuration(self, task: Task) -> Body | None:
        if task.type is not TaskType.RUN_EXPERIMENT:
            return None
        # The SDK up to 8.59 refuses a configuration without these members.
        return {
            "experiment_type": self._spell("LLM_GENERATION", task.number),
            "ai_integration_id": identifier(kind="AiIntegration", number=1),
            "messages": [{"role": self._spell("USER", task.number), "content": "{{input}}"}],
            "input_variable_format": self._spell("MUSTACHE", task.number),
        }

    def _choice(self, choice: StrEnum, number: int) -> str:
        return self._spell(choice.value, number)

    def _spell(self, value: str, number: int) -> str:
        lower = self.wire is Wire.LOWER or (self.wire is Wire.MIXED and number % 2 == 0)
        return value.lower() if lower else value

    def _time(self, simulated_ms: int | None, number: int) -> str | None:
        if simulated_ms is None:
            return None
        fractions = self.wire is not Wire.MIXED or number % 3 != 0
        return iso(self._clock.shown(simulated_ms), fractions=fractions)

    def _vary(self, body: Mapping[str, object], number: int) -> Body:
        if self.wire is Wire.UPPER:
            return dict(body)
        if self.wire is Wire.LOWER:
            return {name: value for name, value in body.items() if not _missing_in_lower(name, value, number)}
        return _mix(body, number)


def _missing_in_lower(name: str, value: object, number: int) -> bool:
    return name in _UNKNOWN_TO_OLD_SERVERS or (value is None and _percent(number, name) < 50)


def _mix(body: Mapping[str, object], number: int) -> Body:
    mixed = {name: value for name, value in body.items() if not _missing_in_mixed(name, value, number)}
    for name in mixed.keys() - _NEVER_LEFT_OUT:
        if 8 <= _percent(number, name) < 14:
            mixed[name] = None
    if _percent(number, "extra") < 15:
        mixed["shard_hint"] = number % 16
    return mixed


def _missing_in_mixed(name: str, value: object, number: int) -> bool:
    return name not in _NEVER_LEFT_OUT and _percent(number, name) < (50 if value is None else 8)


def _percent(number: int, member: str) -> int:
    """0 to 99, always the same for this member of this object."""
    return hashlib.sha256(f"{number}:{member}".encode()).digest()[0] * 100 // 256
