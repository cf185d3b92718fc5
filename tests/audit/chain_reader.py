"""An independent reader of the audit log: it uses SHA-256, JSON and the documented format, and none of our code."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db import connection

TABLE = "taskruns_auditevent"
HASHED = (
    *("schema", "chain", "seq", "event_id", "at", "event", "outcome"),
    *("actor_type", "actor_id", "actor_label", "actor_role"),
    *("auth_method", "session_ref", "ip", "user_agent"),
    *("request_id", "operation_id"),
    *("team_id", "team_label", "target_type", "target_id", "target_label"),
    *("endpoint", "task_id", "run_id", "credential_id"),
    *("reason", "details", "prev_hash"),
)
ZEROS = "0" * 64


def stored(chain: str) -> list[dict[str, Any]]:
    """The rows by number, read with SQL. JSON is parsed; uuids and times are formatted as they were hashed."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(HASHED)}, hash FROM {TABLE} WHERE chain = %s ORDER BY seq", [chain])
        names = [column[0] for column in cursor.description]
        return [as_exported(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def as_exported(row: dict[str, Any]) -> dict[str, Any]:
    details = row["details"]
    row["details"] = json.loads(details) if isinstance(details, str) else details
    row["at"] = time_text(row["at"])
    for name in ("event_id", "operation_id", "team_id", "credential_id"):
        row[name] = None if row[name] is None else str(uuid.UUID(str(row[name])))
    return row


def time_text(at: datetime | str) -> str:
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def independent_hash(row: dict[str, Any]) -> str:
    columns = {name: value for name, value in row.items() if name != "hash"}
    text = json.dumps(columns, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"taskruns-audit-v1\n" + text.encode("utf-8")).hexdigest()


def assert_whole(chain: str, *, rows: int) -> list[dict[str, Any]]:
    """Assert that the chain has this many rows, each with the right number, link and hash. Returns the rows."""
    found = stored(chain)
    assert_linked(found)
    assert len(found) == rows
    return found


def read_export(export: bytes) -> dict[str, Any]:
    """Check an export of format 2 as documented, except its signatures. Returns its manifest, events, anchors and
    trailer.
    """
    body, newline, last = export.rstrip(b"\n").rpartition(b"\n")
    assert export == body + newline + last + b"\n"
    lines = [json.loads(line) for line in export.split(b"\n")[:-1]]
    kinds = [kind for line in lines for kind in line]
    assert len(kinds) == len(lines), "each line has exactly one member"
    events, anchors = kinds.count("event"), kinds.count("anchor")
    assert kinds == ["manifest", *["event"] * events, *["anchor"] * anchors, "trailer"]
    values = [line[kind] for line, kind in zip(lines, kinds, strict=True)]
    manifest, trailer = values[0], values[-1]
    assert manifest["format"] == 2
    assert set(trailer) == {"events", "anchors", "digest", "key_id", "signature"}
    assert (trailer["events"], trailer["anchors"]) == (events, anchors)
    assert trailer["digest"] == hashlib.sha256(body + newline).hexdigest()
    return {
        "manifest": manifest,
        "events": values[1 : events + 1],
        "anchors": values[events + 1 : -1],
        "trailer": trailer,
    }


def signed_text(kind: str, statement: dict[str, Any]) -> bytes:
    """The bytes that the signature of an anchor or a trailer covers."""
    unsigned = {name: value for name, value in statement.items() if name != "signature"}
    text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{kind}\n{text}".encode()


def assert_linked(rows: Iterable[dict[str, Any]]) -> None:
    number, previous = 0, ZEROS
    for number, row in enumerate(rows, start=1):
        assert (row["seq"], row["prev_hash"]) == (number, previous)
        assert row["hash"] == independent_hash(row)
        previous = row["hash"]
    assert number, "there are no rows to check"
