"""Reads the body of `POST /v2/tasks/{id}/trigger`: which fields each kind of task accepts, and their valid values."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .catalogue import Task, TaskType, is_identifier
from .messages import Fields, Problem, Request

_WINDOW = ("data_start_time", "data_end_time")
_EVALUATION = ("max_spans", "override_evaluations")
_EXPERIMENT = (
    "experiment_name",
    "dataset_version_id",
    "example_ids",
    "max_examples",
    "query_filter",
    "tracing_metadata",
    "evaluation_task_ids",
)
_KNOWN = (*_WINDOW, *_EVALUATION, "experiment_ids", *_EXPERIMENT)
_LONGEST_WINDOW = timedelta(days=30)
_LONGEST_NAME = 255
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Trigger:
    """`window` is None for tasks on a dataset, `experiment_name` for evaluations."""

    window: tuple[datetime, datetime] | None = None
    experiment_name: str | None = None
    evaluation_task_ids: tuple[str, ...] = ()


def read_trigger(request: Request, *, task: Task, last_run: datetime | None, now: datetime) -> Trigger:
    """Raises Problem: 400 for an invalid body, 422 for values that exclude each other."""
    fields = Fields.read(request.json() if request.body else {}, known=_KNOWN)
    _check_members(fields, task)
    if task.type is TaskType.RUN_EXPERIMENT:
        return _read_experiment(fields)
    fields.whole("max_spans", least=1, most=_MOST)
    _read_flag(fields, "override_evaluations")
    _read_ids(fields, "experiment_ids")
    if task.project_id is None:
        return Trigger()
    return Trigger(window=_read_window(fields, last_run=last_run, now=now))


def _check_members(fields: Fields, task: Task) -> None:
    """The task decides which members apply. Those of another kind of task are rejected, not ignored."""
    given = [name for name in _KNOWN if fields.document.get(name) is not None]
    others = [name for name in given if name not in _members_of(task)]
    if others:
        raise Problem(400, f"{others[0]} does not apply to this task.")


def _members_of(task: Task) -> Collection[str]:
    if task.type is TaskType.RUN_EXPERIMENT:
        return _EXPERIMENT
    return (*_EVALUATION, "experiment_ids") if task.project_id is None else (*_EVALUATION, *_WINDOW)


def _read_window(fields: Fields, *, last_run: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Without a window: from the last run until now. A window with only one end is rejected."""
    start, end = (_read_time(fields, name) for name in _WINDOW)
    if (start is None) != (end is None):
        raise Problem(400, "data_start_time and data_end_time must be given together.")
    start, end = start or last_run or datetime.fromtimestamp(0, UTC), end or now
    if start >= end:
        raise Problem(400, "data_start_time must be before data_end_time.")
    if end - start > _LONGEST_WINDOW:
        raise Problem(400, "The window can be at most 30 days long.")
    return start, end


def _read_time(fields: Fields, name: str) -> datetime | None:
    text = fields.text(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Problem(400, f"{name} must be an ISO 8601 date-time.") from None


def _read_experiment(fields: Fields) -> Trigger:
    name = fields.text("experiment_name")
    if not name:
        raise Problem(400, "experiment_name is required.")
    if len(name) > _LONGEST_NAME or '"' in name or "\\" in name:
        raise Problem(400, f"experiment_name can have at most {_LONGEST_NAME} characters, and no quote or backslash.")
    fields.text("query_filter")
    if fields.document.get("tracing_metadata") is not None:
        fields.texts("tracing_metadata")
    _read_version(fields)
    most = fields.whole("max_examples", least=1, most=_MOST)
    if _read_ids(fields, "example_ids") and most is not None:
        raise Problem(422, "example_ids and max_examples exclude each other.")
    return Trigger(experiment_name=name, evaluation_task_ids=_read_ids(fields, "evaluation_task_ids"))


def _read_version(fields: Fields) -> None:
    version = fields.text("dataset_version_id")
    if version is not None:
        _check_id("dataset_version_id", version)


def _read_flag(fields: Fields, name: str) -> None:
    if not isinstance(fields.document.get(name), bool | None):
        raise Problem(400, f"{name} must be true or false.")


def _read_ids(fields: Fields, name: str) -> tuple[str, ...]:
    value = fields.document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Problem(400, f"{name} must be a list of ids.")
    for one in value:
        _check_id(name, one)
    return tuple(value)


def _check_id(name: str, text: str) -> None:
    if not is_identifier(text):
        raise Problem(400, f"{name} contains {text[:50]!r}, which is not a valid identifier.")


def check_evaluations(trigger: Trigger, find: Callable[[str], Task | None]) -> None:
    """Raises Problem 422 unless each evaluation to run after the experiment is readable with the key."""
    for task_id in trigger.evaluation_task_ids:
        task = find(task_id)
        if task is None or task.type is TaskType.RUN_EXPERIMENT:
            raise Problem(422, f"evaluation_task_ids: {task_id} is not an evaluation task.")
