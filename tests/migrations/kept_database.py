"""A database of release 0.1.0, stored as SQL in `tests/fixtures/`, for SQLite or PostgreSQL.

The code of 0.1.0 wrote the rows, against the simulated Arize: two teams, people of each role, a key,
tasks and runs, cancellations, a batch, an emergency stop, a trigger, saved views, second factors, and the audit log
with its anchors. Secrets and anchors use the keys of `tests/settings.py`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import ConnectionHandler, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from config import environment
from tests.e2e.databases import own_database
from tests.paths import ROOT

KEPT = ROOT / "tests" / "fixtures" / "release_0_1_0.sql"
# `migrate` itself writes these.
FILLED_BY_MIGRATE = ("auth_permission", "django_content_type", "django_migrations")
Rows = dict[str, list[dict[str, Any]]]


def kept_rows() -> Rows:
    """Table -> its rows, with values as SQLite stores them. Generated columns are left out."""
    with sqlite3.connect(":memory:") as kept:
        kept.executescript(KEPT.read_text(encoding="utf-8"))
        kept.row_factory = sqlite3.Row
        tables = [name for (name,) in kept.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: _rows(kept, table) for table in tables if not table.startswith("sqlite_")}


def _rows(kept: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    columns = ", ".join(f'"{column["name"]}"' for column in kept.execute(f'PRAGMA table_info("{table}")'))
    return [dict(row) for row in kept.execute(f'SELECT {columns} FROM "{table}"')]


@contextmanager
def kept_database(directory: Path) -> Iterator[BaseDatabaseWrapper]:
    """Inside the context, the default connection uses a copy that was not migrated yet."""
    with own_database(directory) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        settings = environment.database(Path("unused"))
        before = connections["default"]
        connections["default"] = copy = ConnectionHandler({"default": settings})["default"]
        try:
            _fill(copy)
            yield copy
        finally:
            copy.close()
            connections["default"] = before


def _fill(copy: BaseDatabaseWrapper) -> None:
    if copy.vendor == "sqlite":
        with sqlite3.connect(copy.settings_dict["NAME"]) as file:
            file.executescript(KEPT.read_text(encoding="utf-8"))
        file.close()
        return
    rows = kept_rows()
    newest = {row["app"]: row["name"] for row in rows["django_migrations"]}
    for app, name in newest.items():
        call_command("migrate", app, name, verbosity=0)
    with copy.cursor() as cursor:
        _load(cursor, rows)


def _load(cursor: Any, rows: Rows) -> None:
    """In one transaction, because foreign keys are checked at its end."""
    with transaction.atomic():
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")
        for table in FILLED_BY_MIGRATE:
            cursor.execute(f"DELETE FROM {table}")
        for table, table_rows in rows.items():
            for row in table_rows:
                _insert(cursor, table, row)
    for table in rows:
        _continue_numbers(cursor, table)


def _insert(cursor: Any, table: str, row: dict[str, Any]) -> None:
    """Every value is sent as text, which the column's type parses."""
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(["%s"] * len(row))
    values = [None if value is None else str(value) for value in row.values()]
    cursor.execute(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', values)


def _continue_numbers(cursor: Any, table: str) -> None:
    """Set a table's sequence to continue after the highest number."""
    cursor.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_identity = 'YES'", [table]
    )
    for (column,) in cursor.fetchall():
        cursor.execute(
            f"SELECT setval(pg_get_serial_sequence(%s, %s), (SELECT max({column}) FROM {table}))", [table, column]
        )
