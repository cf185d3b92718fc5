"""How a row is written as JSON, for hashing and for export. The hash itself is made by `taskruns.verifier`, so that
writer and verifier cannot differ.
"""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

COLUMNS = (
    "schema",
    "chain",
    "seq",
    "event_id",
    "at",
    "event",
    "outcome",
    "actor_type",
    "actor_id",
    "actor_label",
    "actor_role",
    "auth_method",
    "session_ref",
    "ip",
    "user_agent",
    "request_id",
    "operation_id",
    "team_id",
    "team_label",
    "target_type",
    "target_id",
    "target_label",
    "endpoint",
    "task_id",
    "run_id",
    "credential_id",
    "reason",
    "details",
    "prev_hash",
)


class Row(Protocol):
    """Anything with the columns as attributes."""

    hash: str


def row_as_json(row: Row) -> dict[str, Any]:
    """The row's hashed columns as JSON values: times as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, uuids as lower-case text."""
    return {name: value_as_json(getattr(row, name)) for name in COLUMNS}


def value_as_json(value: Any) -> Any:
    """A column's value as JSON has it."""
    to_json = AS_JSON.get(type(value))
    return to_json(value) if to_json else value


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# By type and not by isinstance(): a million rows have thirty million values. No column of ours holds bytes, but on
# SQLite someone may have put some there.
AS_JSON: dict[type, Callable[[Any], str]] = {datetime: _utc, uuid.UUID: str, bytes: repr}
