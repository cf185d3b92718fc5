"""Whether this process can do its work, and if not, why.

The sentences are for the log and for commands, never for an answer: strangers can ask too.
"""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import structlog
from django.apps import apps
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from taskruns.audit import anchors, signing_keys
from taskruns.audit.append_only import APPEND_ONLY_TABLES
from taskruns.models.stamps import SKEW

from . import heartbeats, key_ring, unfinished

log = structlog.get_logger(__name__)
SEEN_WITHIN = timedelta(minutes=3)
SEEN_WITHIN_STRICT = timedelta(seconds=30)
# SQLite needs some room to write at all: its write-ahead log alone grows to 4 MB.
LEAST_DISK = 8 * 2**20  # bytes
MOST_NAMED = 5

_COLUMNS = {
    "sqlite": "SELECT t.name, c.name FROM sqlite_master t, pragma_table_xinfo(t.name) c WHERE t.type = 'table'",
    "postgresql": (
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND pg_table_is_visible(c.oid)"
    ),
}
# The role of the panel needs no right to change or delete rows of the log.
_UNGRANTED = """
    SELECT c.relname FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND c.relname = ANY(%s) AND NOT (
        has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND (
            c.relname = ANY(%s) OR has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')))
    ORDER BY c.relname"""


def refuse_start() -> None:
    """Stop a process with the wrong ring keys or signing key, or with an incomplete database.

    Raises ImproperlyConfigured. A database that cannot be reached, or has other tables than this release, does not stop
    the start: the log says so, and /readyz reports it.
    """
    try:
        if found := unfinished.problem() or key_ring.problem() or signing_keys.signing_key_problem():
            raise ImproperlyConfigured(found)
        if why := unapplied_migrations() or schema_difference():
            log.warning("not_ready", why=why)
    except DatabaseError:
        log.warning("key_ring_not_checked", exc_info=True)


def is_ready(*, strict: bool = False) -> bool:
    """If not, the log says why. `strict`: worker and queue were seen a moment ago, and the clocks agree."""
    try:
        why = next(problems(strict=strict), "")
    except DatabaseError:
        log.warning("not_ready", why="the database cannot be used", exc_info=True)
        return False
    if why:
        log.warning("not_ready", why=why)
    return not why


def problems(*, strict: bool = False) -> Iterator[str]:
    """What is wrong, the most basic first. Raises DatabaseError.

    Do not read on after the first one unless nothing is done about it: the next check may fail because of it.
    """
    checks: list[Callable[[], str]] = [
        *(unfinished.problem, unapplied_migrations, schema_difference, missing_grants),
        *(unwritten_anchors, key_ring.problem, signing_keys.signing_key_problem),
        *(lambda: unseen(strict=strict), full_disk, missing_static_files),
    ]
    yield from filter(None, (check() for check in checks))
    if strict:
        yield from filter(None, [other_clock()])


def unapplied_migrations() -> str:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    names = _few(str(migration) for migration, _ in plan)
    return f"migrations are not applied: {names}. Run `manage.py migrate`." if plan else ""


def schema_difference() -> str:
    """Tables or columns of the models that the database lacks, although its migrations are noted as applied."""
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS[connection.vendor])
        found = set(cursor.fetchall())
    wanted = {
        (model._meta.db_table, field.column)
        for model in apps.get_models(include_auto_created=True)
        for field in model._meta.local_concrete_fields
        if not model._meta.proxy
    }
    missing = sorted(f"{table}.{column}" for table, column in wanted - found)
    return f"the database lacks columns of this version: {_few(missing)}. Restore a backup." if missing else ""


def missing_grants() -> str:
    """Whether this role may use all tables. Their owner may always."""
    if connection.vendor != "postgresql":
        return ""
    tables = [model._meta.db_table for model in apps.get_models(include_auto_created=True)]
    with connection.cursor() as cursor:
        cursor.execute(_UNGRANTED, [tables, list(APPEND_ONLY_TABLES)])
        found = [name for (name,) in cursor.fetchall()]
    return f"the database role lacks grants on {_few(found)}. Repeat the GRANT statements." if found else ""


def unwritten_anchors() -> str:
    return "" if anchors.unwritten_since() is None else "anchors are not written to AUDIT_ANCHOR_FILE"


def unseen(*, strict: bool = False) -> str:
    """A worker that runs since before an upgrade writes no heartbeat of the queue."""
    within = SEEN_WITHIN_STRICT if strict else SEEN_WITHIN
    optional = set() if strict else {heartbeats.QUEUE}
    for name in (heartbeats.WORKER, heartbeats.QUEUE):
        if not heartbeats.was_seen(name, within=within) and (name not in optional or heartbeats.is_known(name)):
            return f"{name} was not seen for {within.total_seconds():.0f} s"
    return ""


def other_clock() -> str:
    """Claims and pauses are compared between machines, so their clocks must agree."""
    seconds = abs(heartbeats.database_now() - timezone.now()).total_seconds()
    return "" if seconds <= SKEW.total_seconds() else f"this clock and the database's differ by {seconds:.0f} s"


def full_disk() -> str:
    """SQLite's disk is this machine's. A full disk of another database server stops the worker's heartbeat."""
    if connection.vendor != "sqlite":
        return ""
    database = Path(str(connection.settings_dict["NAME"]))
    disk = os.statvfs(database.parent)
    return "" if disk.f_bavail * disk.f_frsize >= LEAST_DISK else f"the disk of {database.parent} is full"


def missing_static_files() -> str:
    """The storage reads the list of `collectstatic` when the process starts."""
    if getattr(staticfiles_storage, "hashed_files", None) != {}:
        return ""
    folder = getattr(staticfiles_storage, "location", "STATIC_ROOT")
    return f"there are no static files in {folder}. Run `manage.py collectstatic`, then restart."


def _few(names: "Iterator[str] | list[str]") -> str:
    known = list(names)
    return ", ".join(known[:MOST_NAMED]) + (f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else "")
