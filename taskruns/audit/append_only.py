"""The database's own refusal to change the log: UPDATE and DELETE on both databases, TRUNCATE on PostgreSQL too.

SQLite silently drops a table's triggers whenever Django remakes the table (AlterField, AddField), therefore `seal()`
runs after every migrate and may run at any time.
"""

from collections.abc import Iterator
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from taskruns.models import AuditAnchor, AuditEvent

# Each table, and when an INSERT would take the place of a row: REPLACE deletes without firing a DELETE trigger.
_TAKES_A_PLACE = {
    AuditEvent._meta.db_table: "id = NEW.id OR event_id = NEW.event_id OR (chain = NEW.chain AND seq = NEW.seq)",
    AuditAnchor._meta.db_table: "id = NEW.id OR (chain = NEW.chain AND seq = NEW.seq AND key_id = NEW.key_id)",
}
SEALED_TABLES = tuple(_TAKES_A_PLACE)

_SQLITE = {
    "{table}_no_update": "BEFORE UPDATE ON {table}",
    "{table}_no_delete": "BEFORE DELETE ON {table}",
    "{table}_no_replace": "BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {takes_a_place})",
}
_SQLITE_REFUSES = "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
_POSTGRESQL_REFUSES = "BEGIN RAISE EXCEPTION 'the audit log is append-only'; END"
_POSTGRESQL_FUNCTION = f"""CREATE OR REPLACE FUNCTION taskruns_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ {_POSTGRESQL_REFUSES} $$"""
_POSTGRESQL = """CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION taskruns_append_only()"""
# Each trigger of the very tables that the panel writes, whatever else is called so: enabled, for each change of any
# column (58 is BEFORE (2), DELETE (8), UPDATE (16) and TRUNCATE (32)), without a condition; and its function's body.
_POSTGRESQL_HAS = """SELECT tgname, prosrc FROM pg_trigger
    JOIN pg_proc ON pg_proc.oid = tgfoid
    JOIN pg_language ON pg_language.oid = prolang AND lanname = 'plpgsql'
    JOIN pg_class ON pg_class.oid = tgrelid AND pg_class.oid = to_regclass(quote_ident(relname))
    WHERE tgenabled IN ('O', 'A') AND tgtype = 58 AND tgname = relname || '_append_only'
    AND tgattr::text = '' AND tgqual IS NULL AND NOT tgisinternal AND proconfig IS NULL"""


def seal(connection: BaseDatabaseWrapper) -> None:
    """Put the triggers in place. Idempotent."""
    with connection.cursor() as cursor:
        for statement in _statements(connection.vendor):
            cursor.execute(statement)


def missing(connection: BaseDatabaseWrapper) -> list[str]:
    """The triggers that should be there and are not, are switched off, or no longer say what they should."""
    if connection.vendor == "postgresql":
        wanted = {f"{table}_append_only": _POSTGRESQL_REFUSES for table in SEALED_TABLES}
        query = _POSTGRESQL_HAS
    else:
        wanted = {name: f"{when} {_SQLITE_REFUSES}" for name, when in _sqlite_triggers()}
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    with connection.cursor() as cursor:
        cursor.execute(query)
        there = dict(cursor.fetchall())
    return [name for name, text in wanted.items() if not _says(there.get(name, ""), text, connection.vendor)]


def _says(there: str, wanted: str, vendor: str) -> bool:
    """The whole body of the function on PostgreSQL; on SQLite the end of the statement that made the trigger."""
    return there.strip() == wanted if vendor == "postgresql" else there.endswith(wanted)


def _sqlite_triggers() -> Iterator[tuple[str, str]]:
    for table, takes_a_place in _TAKES_A_PLACE.items():
        for name, when in _SQLITE.items():
            yield name.format(table=table), when.format(table=table, takes_a_place=takes_a_place)


def _statements(vendor: str) -> list[str]:
    if vendor == "postgresql":
        return [_POSTGRESQL_FUNCTION, *(_POSTGRESQL.format(table=table) for table in SEALED_TABLES)]
    return [f"CREATE TRIGGER IF NOT EXISTS {name} {when} {_SQLITE_REFUSES}" for name, when in _sqlite_triggers()]


def seal_after_migrate(*, using: str, **_kwargs: Any) -> None:
    """Signal receiver of `post_migrate`."""
    if AuditEvent._meta.db_table in connections[using].introspection.table_names():
        seal(connections[using])
