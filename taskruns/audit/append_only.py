"""Database triggers that protect the log: they refuse UPDATE and DELETE, and on PostgreSQL also TRUNCATE.

One kind of DELETE passes: of an anchor older than KEPT_WHOLE, if a later one of its chain and UTC day exists. So the
last anchor of each day and the newest one can never be deleted.

The panel creates no other trigger or rule on these tables. One made by someone else could keep rows or anchors out.

SQLite silently drops a table's triggers whenever Django rebuilds the table (AlterField, AddField), so they are created
again after every migrate.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain, AuditEvent

KEPT_WHOLE = timedelta(days=90)  # afterwards one anchor a day and chain stays
_EVENTS, _ANCHORS = AuditEvent._meta.db_table, AuditAnchor._meta.db_table
# Table -> when an INSERT would replace a row. SQLite's REPLACE deletes the old row without firing a DELETE trigger.
_REPLACES = {
    _EVENTS: "id = NEW.id OR event_id = NEW.event_id OR (chain = NEW.chain AND seq = NEW.seq)",
    _ANCHORS: "id = NEW.id OR (chain = NEW.chain AND seq = NEW.seq AND key_id = NEW.key_id)",
}
APPEND_ONLY_TABLES = tuple(_REPLACES)
_LOG_TABLES = (*APPEND_ONLY_TABLES, AuditChain._meta.db_table, AnchorToPublish._meta.db_table)

_SQLITE = {
    "{table}_no_update": "BEFORE UPDATE ON {table}",
    "{table}_no_delete": "BEFORE DELETE ON {table}{unless}",
    "{table}_no_replace": "BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {replaces})",
}
# Times are texts such as 2026-11-23 03:00:00.000000, in UTC. Values of another type never count, and NULL means no.
_SQLITE_UNLESS = {
    _EVENTS: "",
    _ANCHORS: f""" WHEN NOT coalesce(
    typeof(OLD.signed_at) = 'text'
    AND OLD.signed_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-{KEPT_WHOLE.days} days')
    AND EXISTS (SELECT 1 FROM {_ANCHORS} AS later WHERE later.chain = OLD.chain AND typeof(later.seq) = 'integer'
    AND later.seq >= OLD.seq AND (later.seq > OLD.seq OR later.id > OLD.id)
    AND substr(later.signed_at, 1, 10) = substr(OLD.signed_at, 1, 10)), 0)""",  # noqa: S608 - our names
}
_SQLITE_REFUSES = "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"


class _Trigger(NamedTuple):
    """A trigger of PostgreSQL and its function: its body and its own settings. `kind`: the bits of `tgtype`."""

    when: str
    kind: int
    function: str
    body: str
    settings: tuple[str, ...] = ()


_REFUSES = "RAISE EXCEPTION 'the audit log is append-only';"
_POSTGRESQL_REFUSES = f"BEGIN {_REFUSES} END"
# Names are looked up in pg_catalog only, and the table is that of the trigger: whoever deletes may have a table, a
# function or an operator of the same name in another schema.
_POSTGRESQL_THINS = f"""DECLARE has_later boolean;
    BEGIN
        IF OLD.signed_at < statement_timestamp() - interval '{KEPT_WHOLE.days * 24} hours' THEN
            EXECUTE format(
                'SELECT EXISTS (SELECT 1 FROM %I.%I WHERE chain = $1 AND seq >= $2 AND (seq > $2 OR id > $3)
                AND (signed_at AT TIME ZONE ''UTC'')::date = ($4 AT TIME ZONE ''UTC'')::date)',
                TG_TABLE_SCHEMA, TG_TABLE_NAME
            ) INTO has_later USING OLD.chain, OLD.seq, OLD.id, OLD.signed_at;
            IF has_later THEN RETURN OLD; END IF;
        END IF;
        {_REFUSES}
    END"""  # noqa: S608 - our names
_EACH_STATEMENT = "FOR EACH STATEMENT EXECUTE FUNCTION taskruns_append_only()"
# ROW 1, BEFORE 2, DELETE 8, UPDATE 16, TRUNCATE 32
_POSTGRESQL = {
    (_EVENTS, f"{_EVENTS}_append_only"): _Trigger(
        f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {_EVENTS} {_EACH_STATEMENT}", 58,
        "taskruns_append_only", _POSTGRESQL_REFUSES,
    ),
    (_ANCHORS, f"{_ANCHORS}_append_only"): _Trigger(
        f"BEFORE UPDATE OR TRUNCATE ON {_ANCHORS} {_EACH_STATEMENT}", 50,
        "taskruns_append_only", _POSTGRESQL_REFUSES,
    ),
    (_ANCHORS, f"{_ANCHORS}_thinning"): _Trigger(
        f"BEFORE DELETE ON {_ANCHORS} FOR EACH ROW EXECUTE FUNCTION taskruns_anchor_thinning()", 11,
        "taskruns_anchor_thinning", _POSTGRESQL_THINS, ("search_path=pg_catalog, pg_temp",),
    ),
}  # fmt: skip
# The triggers that count, each with its function's body: on the panel's own tables (not on tables of the same name in
# another schema), enabled, for every column, without a condition.
_POSTGRESQL_HAS = """SELECT relname, tgname, tgtype, prosrc, proconfig FROM pg_trigger
    JOIN pg_proc ON pg_proc.oid = tgfoid
    JOIN pg_language ON pg_language.oid = prolang AND lanname = 'plpgsql'
    JOIN pg_class ON pg_class.oid = tgrelid AND pg_class.oid = to_regclass(quote_ident(relname))
    WHERE tgenabled IN ('O', 'A') AND tgattr::text = '' AND tgqual IS NULL AND NOT tgisinternal AND NOT prosecdef"""

_POSTGRESQL_ON = """SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY(%s::regclass[])
    UNION SELECT rulename FROM pg_rewrite WHERE ev_class = ANY(%s::regclass[]) AND rulename <> '_RETURN'"""


def make_append_only(connection: BaseDatabaseWrapper) -> None:
    """Create the triggers that refuse changes, and replace those of an earlier release. Idempotent."""
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        for statement in _statements(connection):
            cursor.execute(statement)


def make_append_only_after_migrate(*, using: str, **_kwargs: Any) -> None:
    """Signal receiver of `post_migrate`."""
    if AuditEvent._meta.db_table in connections[using].introspection.table_names():
        make_append_only(connections[using])


def missing_triggers(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of the triggers that are missing, disabled or changed."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_POSTGRESQL_HAS)
            found = {(table, name): tuple(rest) for table, name, *rest in cursor.fetchall()}
        return [place[1] for place, trigger in _POSTGRESQL.items() if not _is_whole(found.get(place), trigger)]
    stored = _sqlite_stored(connection)
    wanted = {name: f"{when} {_SQLITE_REFUSES}" for name, when in _sqlite_triggers()}
    return [name for name, text in wanted.items() if not stored.get(name, "").endswith(text)]


def foreign_triggers(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of the triggers on the log's tables, and on PostgreSQL of the rules, that the panel did not create."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            tables = [connection.ops.quote_name(table) for table in _LOG_TABLES]
            cursor.execute(_POSTGRESQL_ON, [tables, tables])
            ours = {name for _, name in _POSTGRESQL}
        else:
            marks = ", ".join(["%s"] * len(_LOG_TABLES))
            on = f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) IN ({marks})"  # noqa: S608
            cursor.execute(on, _LOG_TABLES)
            ours = {name for name, _ in _sqlite_triggers()}
        return sorted({name for (name,) in cursor.fetchall()} - ours)


def _is_whole(found: tuple[Any, ...] | None, wanted: _Trigger) -> bool:
    """Compare the function's whole body, and its settings, with what the panel creates."""
    if found is None:
        return False
    kind, body, settings = found
    return (kind, body.strip(), tuple(settings or ())) == (wanted.kind, wanted.body, wanted.settings)


def _sqlite_stored(connection: BaseDatabaseWrapper) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        return dict(cursor.fetchall())


def _sqlite_triggers() -> Iterator[tuple[str, str]]:
    for table, replaces in _REPLACES.items():
        for name, when in _SQLITE.items():
            yield name.format(table=table), when.format(table=table, replaces=replaces, unless=_SQLITE_UNLESS[table])


def _statements(connection: BaseDatabaseWrapper) -> Iterator[str]:
    if connection.vendor == "postgresql":
        for (_table, name), trigger in _POSTGRESQL.items():
            yield (
                f"CREATE OR REPLACE FUNCTION {trigger.function}() RETURNS trigger LANGUAGE plpgsql"
                f"{''.join(f' SET {setting}' for setting in trigger.settings)} AS $$ {trigger.body} $$"
            )
            yield f"CREATE OR REPLACE TRIGGER {name} {trigger.when}"
        return
    changed = set(missing_triggers(connection))
    for name, when in _sqlite_triggers():
        if name in changed:
            yield f"DROP TRIGGER IF EXISTS {name}"
            yield f"CREATE TRIGGER {name} {when} {_SQLITE_REFUSES}"
