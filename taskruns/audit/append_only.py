"""Database triggers that protect the log: they refuse UPDATE and DELETE, and on PostgreSQL also TRUNCATE.

The panel creates no other trigger or rule on these tables. One made by someone else could keep rows or anchors out.

SQLite silently drops a table's triggers whenever Django rebuilds the table (AlterField, AddField), so they are created
again after every migrate.
"""

from collections.abc import Iterator
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain, AuditEvent

# Table -> when an INSERT would replace a row. SQLite's REPLACE deletes the old row without firing a DELETE trigger.
_REPLACES = {
    AuditEvent._meta.db_table: "id = NEW.id OR event_id = NEW.event_id OR (chain = NEW.chain AND seq = NEW.seq)",
    AuditAnchor._meta.db_table: "id = NEW.id OR (chain = NEW.chain AND seq = NEW.seq AND key_id = NEW.key_id)",
}
APPEND_ONLY_TABLES = tuple(_REPLACES)
_LOG_TABLES = (*APPEND_ONLY_TABLES, AuditChain._meta.db_table, AnchorToPublish._meta.db_table)

_SQLITE = {
    "{table}_no_update": "BEFORE UPDATE ON {table}",
    "{table}_no_delete": "BEFORE DELETE ON {table}",
    "{table}_no_replace": "BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {replaces})",
}
_SQLITE_REFUSES = "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
_POSTGRESQL_REFUSES = "BEGIN RAISE EXCEPTION 'the audit log is append-only'; END"
_POSTGRESQL_FUNCTION = f"""CREATE OR REPLACE FUNCTION taskruns_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ {_POSTGRESQL_REFUSES} $$"""
_POSTGRESQL = """CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION taskruns_append_only()"""
# The triggers that count, each with its function's body: on the panel's own tables (not on tables of the same name in
# another schema), enabled, for every column, without a condition. 58 = BEFORE 2 + DELETE 8 + UPDATE 16 + TRUNCATE 32.
_POSTGRESQL_HAS = """SELECT tgname, prosrc FROM pg_trigger
    JOIN pg_proc ON pg_proc.oid = tgfoid
    JOIN pg_language ON pg_language.oid = prolang AND lanname = 'plpgsql'
    JOIN pg_class ON pg_class.oid = tgrelid AND pg_class.oid = to_regclass(quote_ident(relname))
    WHERE tgenabled IN ('O', 'A') AND tgtype = 58 AND tgname = relname || '_append_only'
    AND tgattr::text = '' AND tgqual IS NULL AND NOT tgisinternal AND proconfig IS NULL"""

_POSTGRESQL_ON = """SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY(%s::regclass[])
    UNION SELECT rulename FROM pg_rewrite WHERE ev_class = ANY(%s::regclass[]) AND rulename <> '_RETURN'"""


def make_append_only(connection: BaseDatabaseWrapper) -> None:
    """Create the triggers that refuse changes. Idempotent."""
    with connection.cursor() as cursor:
        for statement in _statements(connection.vendor):
            cursor.execute(statement)


def make_append_only_after_migrate(*, using: str, **_kwargs: Any) -> None:
    """Signal receiver of `post_migrate`."""
    if AuditEvent._meta.db_table in connections[using].introspection.table_names():
        make_append_only(connections[using])


def missing_triggers(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of the triggers that are missing, disabled or changed."""
    if connection.vendor == "postgresql":
        wanted = {f"{table}_append_only": _POSTGRESQL_REFUSES for table in APPEND_ONLY_TABLES}
        query = _POSTGRESQL_HAS
    else:
        wanted = {name: f"{when} {_SQLITE_REFUSES}" for name, when in _sqlite_triggers()}
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    with connection.cursor() as cursor:
        cursor.execute(query)
        found = dict(cursor.fetchall())
    return [name for name, text in wanted.items() if not _matches(found.get(name, ""), text, connection.vendor)]


def foreign_triggers(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of the triggers on the log's tables, and on PostgreSQL of the rules, that the panel did not create."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            tables = [connection.ops.quote_name(table) for table in _LOG_TABLES]
            cursor.execute(_POSTGRESQL_ON, [tables, tables])
            ours = {f"{table}_append_only" for table in APPEND_ONLY_TABLES}
        else:
            marks = ", ".join(["%s"] * len(_LOG_TABLES))
            on = f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) IN ({marks})"  # noqa: S608
            cursor.execute(on, _LOG_TABLES)
            ours = {name for name, _ in _sqlite_triggers()}
        return sorted({name for (name,) in cursor.fetchall()} - ours)


def _matches(found: str, wanted: str, vendor: str) -> bool:
    """Compare the function's whole body on PostgreSQL, and the end of the CREATE TRIGGER statement on SQLite."""
    return found.strip() == wanted if vendor == "postgresql" else found.endswith(wanted)


def _sqlite_triggers() -> Iterator[tuple[str, str]]:
    for table, replaces in _REPLACES.items():
        for name, when in _SQLITE.items():
            yield name.format(table=table), when.format(table=table, replaces=replaces)


def _statements(vendor: str) -> list[str]:
    if vendor == "postgresql":
        return [_POSTGRESQL_FUNCTION, *(_POSTGRESQL.format(table=table) for table in APPEND_ONLY_TABLES)]
    return [f"CREATE TRIGGER IF NOT EXISTS {name} {when} {_SQLITE_REFUSES}" for name, when in _sqlite_triggers()]
