"""The JSON with which a script starts a run: the same members and limits as in the forms.

It is passed on as it came, so Arize's own defaults apply to what it leaves out.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from taskruns.arize.triggers import LONGEST_EXPERIMENT_NAME, LONGEST_WINDOW, NOT_IN_A_NAME, PreparedTrigger
from taskruns.arize.values import read_timestamp
from taskruns.arize.wire import TaskType
from taskruns.models import Task

from .triggers import LARGEST_NUMBER, LONGEST_METADATA_NAME, LONGEST_TEXT, MOST_LINES

LONGEST_BODY = 100_000  # bytes; 100 ids of 512 characters fit
_YEARS = range(2000, 2101)


class BodyRefused(ValueError):
    """`str(error)` says what is wrong."""


def read_body(raw: bytes, task: Task) -> PreparedTrigger:
    """Raises BodyRefused. No body at all is allowed."""
    if len(raw) > LONGEST_BODY:
        raise BodyRefused(f"The body is longer than {LONGEST_BODY} bytes.")
    body = _parsed(raw)
    members = _members_of(task)
    if unknown := sorted(body.keys() - members.keys()):
        raise BodyRefused(f"Unknown members for this task: {', '.join(name[:50] for name in unknown[:5])}.")
    for name, value in body.items():
        if value is not None and not members[name](value):
            raise BodyRefused(f"The value of {name} is not valid.")
    _check_together(body)
    return PreparedTrigger(body)


def _parsed(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise BodyRefused("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise BodyRefused("The body is not a JSON object.")
    return body


def _refuse(_constant: str) -> None:
    """JSON has no NaN and no Infinity."""
    raise ValueError


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a member that is there twice, each reader may take another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _is_line(value: object, longest: int = LONGEST_TEXT) -> bool:
    return isinstance(value, str) and len(value) <= longest and value.isprintable()


def _is_id(value: object) -> bool:
    return _is_line(value) and bool(value) and " " not in str(value)


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MOST_LINES and all(map(_is_id, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_NUMBER


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_time(value: object) -> bool:
    return _is_line(value) and (at := read_timestamp(value)) is not None and at.astimezone(UTC).year in _YEARS


def _is_name(value: object) -> bool:
    return _is_line(value, LONGEST_EXPERIMENT_NAME) and bool(value) and not NOT_IN_A_NAME.search(str(value))


def _is_metadata(value: object) -> bool:
    if not isinstance(value, dict) or len(value) > MOST_LINES:
        return False
    return all(_is_line(name, LONGEST_METADATA_NAME) and name and _is_line(text) for name, text in value.items())


Members = Mapping[str, Callable[[object], bool]]
_EVALUATION: Members = {
    "data_start_time": _is_time,
    "data_end_time": _is_time,
    "max_spans": _is_number,
    "override_evaluations": _is_flag,
    "experiment_ids": _are_ids,
}
_EXPERIMENT: Members = {
    "experiment_name": _is_name,
    "dataset_version_id": _is_id,
    "example_ids": _are_ids,
    "max_examples": _is_number,
    "query_filter": _is_line,
    "tracing_metadata": _is_metadata,
    "evaluation_task_ids": _are_ids,
}


def _members_of(task: Task) -> Members:
    """Of a task whose type the panel does not know, Arize decides which members belong together."""
    if task.type == TaskType.RUN_EXPERIMENT:
        return _EXPERIMENT
    return _EVALUATION if task.type in {TaskType.TEMPLATE_EVALUATION, TaskType.CODE_EVALUATION} else _ANY


_ANY: Members = {**_EVALUATION, **_EXPERIMENT}


def _check_together(body: Mapping[str, Any]) -> None:
    start, end = (_time(body.get(name)) for name in ("data_start_time", "data_end_time"))
    if start and end and start >= end:
        raise BodyRefused("data_start_time must be before data_end_time.")
    if start and end and end - start > LONGEST_WINDOW:
        raise BodyRefused(f"The window of data is longer than {LONGEST_WINDOW.days} days.")
    if body.get("example_ids") and body.get("max_examples"):
        raise BodyRefused("Send either example_ids or max_examples, not both.")


def _time(value: object) -> datetime | None:
    return read_timestamp(value) if isinstance(value, str) else None
