"""Tampering by someone who controls the database: drop the triggers, change rows with SQL, create the triggers again.

Everything happens in the test's own transaction, so the next test starts with a new log.
"""

import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from taskruns.audit import Actor
from taskruns.audit.append_only import APPEND_ONLY_TABLES, make_append_only
from taskruns.models import AuditEvent
from taskruns.services import audit
from taskruns.verifier import event_hash
from tests.database_refusals import lift_triggers

from .chain_reader import HASHED, TABLE, stored

ANCHORS, HEADS = "taskruns_auditanchor", "taskruns_auditchain"
FAULT = re.compile(r"(?P<chain>\S+) row (?P<seq>-?\d+): (?P<kind>[a-z ]+): ")
IS_POSTGRESQL = connection.vendor == "postgresql"


@contextmanager
def without_triggers() -> Iterator[None]:
    with connection.cursor() as cursor:
        for table in APPEND_ONLY_TABLES:
            lift_triggers(cursor, table)
    yield
    make_append_only(connection)


def sql(statement: str, *values: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def in_sql(name: str, value: object) -> object:
    """Convert a JSON value to what this database's column accepts."""
    if name in {"event_id", "operation_id", "team_id", "credential_id"} and isinstance(value, str):
        return uuid.UUID(value) if IS_POSTGRESQL else uuid.UUID(value).hex
    if name == "details":
        return json.dumps(value)
    if name == "at" and isinstance(value, str) and not IS_POSTGRESQL:
        return str(datetime.fromisoformat(value).replace(tzinfo=None))
    return value


def edit(chain: str, seq: int, /, **columns: object) -> None:
    """Change columns of one row, given as JSON values."""
    changes = ", ".join(f"{name} = %s" for name in columns)
    values = [in_sql(name, value) for name, value in columns.items()]
    with without_triggers():
        sql(f"UPDATE {TABLE} SET {changes} WHERE chain = %s AND seq = %s", *values, chain, seq)


def insert(row: dict[str, Any]) -> None:
    names = [*HASHED, "hash"]
    marks = ", ".join(["%s"] * len(names))
    with without_triggers():
        values = [in_sql(name, row[name]) for name in names]
        sql(f"INSERT INTO {TABLE} ({', '.join(names)}) VALUES ({marks})", *values)


def delete(chain: str, condition: str, *, table: str = TABLE) -> None:
    with without_triggers():
        sql(f"DELETE FROM {table} WHERE chain = %s AND {condition}", chain)


def renumber(chain: str, condition: str, by: int) -> None:
    """Renumber rows by way of unused numbers, because each number must be unique."""
    with without_triggers():
        sql(f"UPDATE {TABLE} SET seq = seq + 1000000 WHERE chain = %s AND {condition}", chain)
        sql(f"UPDATE {TABLE} SET seq = seq - %s WHERE chain = %s AND seq > 1000000", 1_000_000 - by, chain)


def swap(chain: str, one: int, other: int) -> None:
    with without_triggers():
        for before, after in ((one, -1), (other, one), (-1, other)):
            sql(f"UPDATE {TABLE} SET seq = %s WHERE chain = %s AND seq = %s", after, chain, before)


def set_head(chain: str, seq: int) -> None:
    row = AuditEvent.objects.get(chain=chain, seq=seq)
    sql(f"UPDATE {HEADS} SET seq = %s, hash = %s WHERE chain = %s", seq, row.hash, chain)


def recompute(chain: str, start: int = 1) -> None:
    """Recompute the hashes from row `start` on, and the head: all that is possible without the signing key."""
    rows = stored(chain)
    previous = rows[start - 2]["hash"] if start > 1 else "0" * 64
    for row in rows[start - 1 :]:
        row["prev_hash"] = previous
        previous = event_hash(row)
        edit(chain, row["seq"], prev_hash=row["prev_hash"], hash=previous)
    set_head(chain, rows[-1]["seq"])


def found(chain: str | None, *, outside: list[dict[str, Any]] | None = None) -> list[tuple[str, int]]:
    """Kind and row number of each fault that a verification of the chain finds. Writes no row."""
    faults = fault_texts(chain, outside=outside)
    return [_place(chain, fault) for fault in faults if FAULT.match(fault)]


def fault_texts(chain: str | None, *, outside: list[dict[str, Any]] | None = None) -> list[str]:
    """Each fault as text. `outside`: the contents of an anchor file."""
    faults: list[str] = []
    point = transaction.savepoint()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "anchors.jsonl"
        path.write_text("".join(json.dumps(anchor) + "\n" for anchor in outside or ()))
        anchors = path if outside is not None else None
        report = audit.verify(
            by=Actor.command(), chain=chain, anchors=anchors, progress=lambda _: None, found=faults.append
        )
    transaction.savepoint_rollback(point)
    assert report.fault_count == len(faults)
    return faults


def _place(chain: str | None, fault: str) -> tuple[str, int]:
    match = FAULT.match(fault)
    assert match is not None
    assert chain in {None, match["chain"]}
    return match["kind"], int(match["seq"])
