"""Copies the database as it is at one moment, while the panel works, and describes that same moment."""

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from .contents import described

LONGEST_DUMP = 24 * 3_600  # seconds
# Tables of the queue, if it is in the same database. They only wake up work that the other tables know.
QUEUE_TABLES = "huey_*"
# psycopg's name of a connection's option -> the variable for PostgreSQL's programs.
_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "service": "PGSERVICE",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
}


class CannotDump(Exception):
    """A program that copies or loads a PostgreSQL database is missing, too old, or failed. The text says what to do."""


def take(target: Path) -> dict[str, Any]:
    """Copy the database to the target. Returns the description of what the copy holds. Raises CannotDump."""
    return _take_postgresql(target) if connection.vendor == "postgresql" else _take_sqlite(target)


def _take_sqlite(target: Path) -> dict[str, Any]:
    """In one step, which other connections see as one reader: nobody waits, and the copy is of one moment."""
    source = f"{Path(str(connection.settings_dict['NAME'])).absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(source, uri=True, timeout=30)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode=DELETE")  # the whole copy in one file
            return described(copy.execute, sqlite_tables(copy)) | {"engine": "sqlite"}
    except sqlite3.Error as error:
        raise CannotDump(f"The database cannot be read: {error}. Check DATABASE_URL and the free space.") from None


def sqlite_tables(copy: sqlite3.Connection) -> list[str]:
    found = copy.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return [name for (name,) in found]


def _take_postgresql(target: Path) -> dict[str, Any]:
    """pg_dump reads the snapshot of this transaction, which also answers the queries for the manifest."""
    check_version("pg_dump")
    with _exported_snapshot() as snapshot:
        run_program(
            *("pg_dump", "--format=custom", "--compress=0", "--no-password", f"--snapshot={snapshot}"),
            *(f"--exclude-table={QUEUE_TABLES}", f"--file={target}"),
        )
        tables = [name for name in connection.introspection.table_names() if not name.startswith("huey_")]
        return described(_query, tables) | {"engine": "postgresql"}


@contextmanager
def _exported_snapshot() -> Iterator[str]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        yield str(cursor.fetchone()[0])


def _query(sql: str) -> Iterable[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def check_version(program: str) -> None:
    """pg_dump cannot read a server that is newer than itself. Raises CannotDump."""
    if shutil.which(program) is None:
        raise CannotDump(f"{program} is not installed. Install the client programs of PostgreSQL on this host.")
    said = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=30)  # noqa: S603
    found = re.search(r"(\d+)(?:\.\d+)?", said.stdout)
    own, connection_major = int(found[1]) if found else 0, _server_major()
    if own < connection_major:
        raise CannotDump(
            f"{program} has version {own}, but the server has version {connection_major}. Install the client programs "
            f"of PostgreSQL {connection_major} or newer on this host."
        )


def _server_major() -> int:
    connection.ensure_connection()
    return int(getattr(connection, "pg_version", 0)) // 10_000


def run_program(*command: str) -> None:
    """Run a program of PostgreSQL on this database. The password is in its environment, where no other user sees it."""
    ended = subprocess.run(  # noqa: S603 - our own arguments
        command, check=False, capture_output=True, text=True, timeout=LONGEST_DUMP, env=_environment()
    )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["it did not say why"])[-1]
        raise CannotDump(f"{command[0]} failed: {last}")


def _environment() -> dict[str, str]:
    import os

    given = connection.get_connection_params()
    own = {variable: str(given[name]) for name, variable in _VARIABLES.items() if given.get(name) not in {None, ""}}
    return {**os.environ, "LC_ALL": "C", **own}
