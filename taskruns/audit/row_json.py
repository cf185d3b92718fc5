"""Cleaning the values of an audit row, and the row's canonical JSON for hashing and export.

Text becomes one line: control characters and lone surrogates are replaced, and it is cut to the column's length. The
hash function is in `taskruns.verifier`, because the writer and the verifier of the log must compute the same hash.
"""

import re
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


# Control characters, line and paragraph separators, and bidirectional formatting characters.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST = 2**63 - 1


class Row(Protocol):
    """Anything with the columns as attributes."""

    hash: str


def row_as_json(row: Row) -> dict[str, Any]:
    """The row's hashed columns as JSON values: times as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, uuids as lower-case text."""
    return {name: value_as_json(getattr(row, name)) for name in COLUMNS}


def value_as_json(value: Any) -> Any:
    """Convert a column's value to its JSON form."""
    to_json = AS_JSON.get(type(value))
    return to_json(value) if to_json else value


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# Look up the type instead of calling isinstance(), for speed: a million rows have thirty million values. We never write
# bytes, but SQLite accepts them in any column, so a manual change may leave some.
AS_JSON: dict[type, Callable[[Any], str]] = {datetime: _utc, uuid.UUID: str, bytes: repr}


def clean_line(text: str, limit: int) -> str:
    """One line of at most `limit` characters."""
    one_line = _NOT_IN_A_LINE.sub(" ", _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text))
    return one_line.strip()[:limit].rstrip()


def clean_details(value: Any) -> Any:
    """Allow only strings, integers, booleans, null, lists and objects: PostgreSQL may change a float.

    Raises TypeError for anything else, which is a bug: only our own code writes details.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(-_LARGEST, min(_LARGEST, value))
    if isinstance(value, str):
        return clean_line(value, 512)
    if isinstance(value, list | tuple):
        return [clean_details(item) for item in value]
    if isinstance(value, dict):
        return {clean_line(str(key), 100): clean_details(item) for key, item in value.items()}
    message = f"audit details cannot hold a {type(value).__name__}"
    raise TypeError(message)
