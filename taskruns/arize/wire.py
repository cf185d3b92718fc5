"""Arize's spaces, users, API keys, tasks and runs, read from JSON tolerantly.

Arize REST API v2 is beta. In July 2026 its values changed from lower to upper case without a new version, and older
servers omit members. So both cases are accepted, everything but `id` may be None, and unknown members stay in `raw`.
`"x" in run.raw` distinguishes an absent member from a null one.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from taskruns.arize.errors import Unreadable
from taskruns.arize.values import (
    keep,
    read_boolean,
    read_count,
    read_number,
    read_text,
    read_texts,
    read_timestamp,
)


class RunStatus(StrEnum):
    """UNKNOWN is a status from a newer server: not ended, not cancellable, shown as sent (`raw_status`)."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_active(self) -> bool:
        """Only active runs can be cancelled."""
        return self in {RunStatus.PENDING, RunStatus.RUNNING}

    @property
    def is_ended(self) -> bool:
        return self in {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}


class TaskType(StrEnum):
    TEMPLATE_EVALUATION = "template_evaluation"
    CODE_EVALUATION = "code_evaluation"
    RUN_EXPERIMENT = "run_experiment"
    UNKNOWN = "unknown"


_REDACTED_PART = re.compile(r"[.*\u2026\u2022]{2,}|[\u2026\u2022*]")  # the middle of a redacted key
_FEWEST_SHOWN = 6  # characters of a redacted key; fewer would match too many keys
_STATUSES = {status.value: status for status in RunStatus} | {"canceled": RunStatus.CANCELLED}
_TYPES = {kind.value: kind for kind in TaskType}


@dataclass(frozen=True, slots=True)
class WireSpace:
    """Source: GET /v2/spaces. `organization_id` is absent on older servers."""

    id: str
    name: str | None
    organization_id: str | None
    raw: dict[str, Any] = field(repr=False, hash=False)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises Unreadable if there is no usable id."""
        raw = _record(data)
        return cls(
            id=_usable_id(raw),
            name=read_text(raw.get("name")),
            organization_id=read_text(raw.get("organization_id")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class WireUser:
    """Source: GET /v2/users/{id}. The bot user of a service key is one too, usually without an email."""

    id: str
    name: str | None
    email: str | None
    raw: dict[str, Any] = field(repr=False, hash=False)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises Unreadable if there is no usable id."""
        raw = _record(data)
        return cls(id=_usable_id(raw), name=read_text(raw.get("name")), email=read_text(raw.get("email")), raw=raw)


@dataclass(frozen=True, slots=True)
class WireApiKey:
    """Source: GET /v2/api-keys (beta). `redacted_key` looks like `ak-abc...xyz`. `expires_at` is None if unknown."""

    id: str
    redacted_key: str
    expires_at: datetime | None

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises Unreadable if `data` is not an object with an id."""
        raw = data if isinstance(data, dict) else {}
        id_ = read_text(raw.get("id"))
        if not id_:
            raise Unreadable
        redacted = read_text(raw.get("redacted_key")) or ""
        return cls(id=id_, redacted_key=redacted, expires_at=read_timestamp(raw.get("expires_at")))

    def may_be(self, key: str) -> bool:
        """Whether `key`, once redacted, would look like this one. Two keys can look alike."""
        parts = _REDACTED_PART.split(self.redacted_key.strip())
        if len(parts) != 2 or len(parts[0]) + len(parts[1]) < _FEWEST_SHOWN:
            return False
        begin, end = parts
        return len(key) > len(begin) + len(end) and key.startswith(begin) and key.endswith(end) and bool(end)


@dataclass(frozen=True, slots=True)
class WireTask:
    """Source: GET /v2/tasks. Times are UTC; `sampling_rate` is 0 to 1. Arize does not return a task's space."""

    id: str
    name: str | None
    type: TaskType
    raw_type: str | None
    project_id: str | None
    dataset_id: str | None
    sampling_rate: float | None
    is_continuous: bool | None
    last_run_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None
    created_by_user_id: str | None
    experiment_ids: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False, hash=False)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises Unreadable if there is no usable id."""
        raw = _record(data)
        return cls(
            id=_usable_id(raw),
            name=read_text(raw.get("name")),
            type=read_type(raw.get("type")),
            raw_type=read_text(raw.get("type")),
            project_id=read_text(raw.get("project_id")),
            dataset_id=read_text(raw.get("dataset_id")),
            sampling_rate=read_number(raw.get("sampling_rate")),
            is_continuous=read_boolean(raw.get("is_continuous")),
            last_run_at=read_timestamp(raw.get("last_run_at")),
            created_at=read_timestamp(raw.get("created_at")),
            updated_at=read_timestamp(raw.get("updated_at")),
            created_by_user_id=read_text(raw.get("created_by_user_id")),
            experiment_ids=read_texts(raw.get("experiment_ids")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class WireRun:
    """Source: GET /v2/task-runs/{id}. Times are UTC; counts are 0 to 2**63 - 1 and grow while the run is active."""

    id: str
    task_id: str | None
    experiment_id: str | None
    status: RunStatus
    raw_status: str | None
    run_started_at: datetime | None
    run_finished_at: datetime | None
    data_start_time: datetime | None
    data_end_time: datetime | None
    num_successes: int | None
    num_errors: int | None
    num_skipped: int | None
    created_at: datetime | None
    created_by_user_id: str | None
    failure_reason: str | None
    raw: dict[str, Any] = field(repr=False, hash=False)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises Unreadable if there is no usable id."""
        raw = _record(data)
        return cls(
            id=_usable_id(raw),
            task_id=read_text(raw.get("task_id")),
            experiment_id=read_text(raw.get("experiment_id")),
            status=read_status(raw.get("status")),
            raw_status=read_text(raw.get("status")),
            run_started_at=read_timestamp(raw.get("run_started_at")),
            run_finished_at=read_timestamp(raw.get("run_finished_at")),
            data_start_time=read_timestamp(raw.get("data_start_time")),
            data_end_time=read_timestamp(raw.get("data_end_time")),
            num_successes=read_count(raw.get("num_successes")),
            num_errors=read_count(raw.get("num_errors")),
            num_skipped=read_count(raw.get("num_skipped")),
            created_at=read_timestamp(raw.get("created_at")),
            created_by_user_id=read_text(raw.get("created_by_user_id")),
            failure_reason=read_text(raw.get("failure_reason")),
            raw=raw,
        )

    def only_if(self, run_id: str) -> Self:
        """The run itself if it has this id. Raises Unreadable: what Arize says about another run says nothing."""
        if self.id != run_id:
            raise Unreadable(status=200)
        return self


def read_status(raw: object) -> RunStatus:
    """Accept either case, surrounding blanks and the American spelling; anything else is UNKNOWN."""
    return _STATUSES.get(_word(raw), RunStatus.UNKNOWN)


def read_type(raw: object) -> TaskType:
    return _TYPES.get(_word(raw), TaskType.UNKNOWN)


def _word(raw: object) -> str:
    return raw.strip().lower() if isinstance(raw, str) else ""


def _record(data: object) -> dict[str, Any]:
    """The object as kept in `raw`, including unknown members. Raises Unreadable if it is not an object."""
    if not isinstance(data, dict):
        raise Unreadable
    kept: dict[str, Any] = keep(data)
    return kept


def _usable_id(raw: dict[str, Any]) -> str:
    value = raw.get("id")
    text = None if isinstance(value, float) else read_text(value)
    if text is None or not text.strip():
        raise Unreadable
    return text
