"""The panel's database, seen from outside: read it, move its stamps, end its connections. Without Django."""

import json
import sqlite3
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

APPLICATION = "chaos"  # the name of our own connections
# What the panel compares with its clock.
STAMPS = (
    ("taskruns_credential", ("claimed_until", "next_refresh_at", "backoff_until", "backoff_since", "tasks_read_at")),
    ("taskruns_credential", ("tasks_listed_from", "spaces_listed_from", "rejected_at", "retry_at")),
    ("taskruns_cancelbatch", ("claimed_until", "due_at", "finished_at")),
    ("taskruns_cancelitem", ("next_try_at",)),
    ("taskruns_cancelpace", ("free_at", "paused_until", "paused_at", "probe_until")),
    ("taskruns_cancellation", ("look_at",)),
    ("taskruns_task", ("runs_read_at", "runs_failed_at", "swept_at", "searched_at", "gap_searched_at")),
    ("taskruns_run", ("observed_at", "look_failed_at", "last_active_at")),
    ("taskruns_heartbeat", ("seen_at",)),
)
# Seconds after which a cancel has its answer, if Arize works.
ANSWERED_AFTER = 5


class Database:
    """One connection, reopened if it breaks. Thread-safe. Placeholders are `?`."""

    def __init__(self, url: str, *, may_write: bool = False) -> None:
        self._url, self._may_write = url, may_write
        self.is_postgres = url.startswith("postgres")
        self._lock = threading.Lock()
        self._connection: Any = None

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._rows(query, parameters)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._connection = None
                return self._rows(query, parameters)

    def shift(self, seconds: int) -> None:
        """Move every stamp as if the clock had been set."""
        for table, columns in STAMPS:
            moved = ", ".join(f"{column} = {self._later(column, seconds)}" for column in columns)
            self._write(f"UPDATE {table} SET {moved}")

    def let_pass(self, seconds: int, *, only_stopping: bool = False) -> None:
        """Make the open cancels older; without `only_stopping` also the stamps, as if this much time had passed."""
        age = ("stopping_since",) if only_stopping else ("stopping_since", "requested_at", "posted_at")
        moved = ", ".join(f"{column} = {self._later(column, -seconds)}" for column in age)
        now = "now()" if self.is_postgres else "'now'"
        is_answered = f"requested_at < {self._later(now, -ANSWERED_AFTER)}"
        self._write(f"UPDATE taskruns_cancellation SET {moved} WHERE outcome = '' AND {is_answered}")
        if not only_stopping:
            self.shift(-seconds)

    def terminate_connections(self) -> None:
        """End every connection of the panel to its PostgreSQL database."""
        self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name <> ?",
            (APPLICATION,),
        )

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _write(self, statement: str) -> None:
        with self._lock:
            self._cursor().execute(statement)

    def _later(self, column: str, seconds: int) -> str:
        if self.is_postgres:
            return f"{column} + interval '{seconds} seconds'"
        return f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '{seconds:+d} seconds')"

    def _rows(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        cursor = self._cursor()
        cursor.execute(query.replace("?", "%s") if self.is_postgres else query, tuple(parameters))
        return list(cursor.fetchall())

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection.cursor()

    def _connect(self) -> Any:
        if self.is_postgres:
            return psycopg.connect(self._url, autocommit=True, application_name=APPLICATION)
        file = Path(urlsplit(self._url).path[1:])
        mode = "rw" if self._may_write else "ro"
        return sqlite3.connect(
            f"file:{file}?mode={mode}", uri=True, timeout=60, isolation_level=None, check_same_thread=False
        )


def seconds_of(value: Any) -> float:
    """A stored moment as seconds since 1970."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def id_of(value: Any) -> str:
    """A stored UUID as text; empty for none."""
    return str(uuid.UUID(str(value))) if value else ""


def json_of(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


class Witness:
    """What the fake Arize asks the panel's database when a cancel arrives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_operation(self, run: str) -> str:
        found = self._database.rows(
            "SELECT c.id FROM taskruns_cancellation c JOIN taskruns_run r ON r.id = c.run_id "
            "WHERE r.arize_id = ? AND c.outcome = ''",
            (run,),
        )
        return id_of(found[0][0]) if found else ""

    def requested(self, run: str) -> tuple[str, ...]:
        found = self._database.rows(
            "SELECT operation_id FROM taskruns_auditevent "
            "WHERE run_id = ? AND event = 'run.cancel' AND outcome = 'requested' ORDER BY id",
            (run,),
        )
        return tuple(id_of(operation) for (operation,) in found)
