"""Checks of the database, and of what it says about keys, worker and anchors."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from taskruns.audit.anchors import lead_problem
from taskruns.audit.append_only import APPEND_ONLY_TABLES, foreign_triggers, missing_triggers
from taskruns.audit.signing_keys import signing_key_problem
from taskruns.models import Credential, Heartbeat
from taskruns.models.restores import is_resting
from taskruns.models.stamps import SKEW
from taskruns.services import credentials, heartbeats, key_ring, unfinished

from .reach import start_arize
from .round import Check, Round

CONNECTS_WITHIN = 3  # seconds
ANSWERS_WITHIN = 3  # seconds for one query, on PostgreSQL
SEEN_WITHIN = timedelta(minutes=3)
EXPIRES_SOON = timedelta(days=14)
MIGRATE = "Run manage.py migrate (as the owner of the tables), then restart web and worker."
_UNREACHED = "Not checked, because the database does not answer."
_NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE")


def checks(round_: Round) -> Iterator[Check]:
    """The others need an answer of the database, and some of them its tables."""
    if connection.vendor == "sqlite" and not Path(str(connection.settings_dict["NAME"])).exists():
        yield Check("database", "fail", "There is no database file yet.", "Run manage.py migrate, or restore a backup.")
        return
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"SET statement_timeout = '{ANSWERS_WITHIN}s'")
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        do = "Check that the database runs, that DATABASE_URL is right, and that this host may connect."
        yield Check("database", "fail", f"It cannot be used ({type(error).__name__}).", do)
        yield from (Check(name, "warn", _UNREACHED, "Run doctor again then.") for name, _ in _CHECKS)
        return
    yield Check("database", "ok", f"{'PostgreSQL' if connection.vendor == 'postgresql' else 'SQLite'} answers.")
    for name, check in _CHECKS:
        try:
            yield from check()
        except DatabaseError as error:
            yield Check(name, "fail", f"A query failed ({type(error).__name__}).", MIGRATE)
            connection.close()
    used = set(Credential.objects.live().values_list("endpoint", flat=True))
    start_arize(round_, used - set(settings.ARIZE_ENDPOINTS))


def _whole() -> Iterator[Check]:
    if unfinished.problem():
        do = "Run the same manage.py restore or manage.py move_to again: it starts over."
        yield Check("completeness", "fail", "A restore or a move into the database was interrupted or still works.", do)


def _migrations() -> Iterator[Check]:
    executor = MigrationExecutor(connection)
    unknown = set(executor.loader.applied_migrations) - set(executor.loader.disk_migrations)
    of_ours = sorted(name for app, name in unknown if app == "taskruns")
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        yield Check("migrations", "fail", "The tables are those of an older release.", MIGRATE)
    elif of_ours:
        do = "Install the release that migrated the database."
        yield Check("migrations", "fail", f"The database is newer than this release: {of_ours[-1]}.", do)
    elif missing := list(_missing_columns()):
        do = "Restore a backup, or compare with a new database: a migration was changed after it had been applied."
        yield Check("migrations", "fail", f"The tables lack columns: {', '.join(missing[:5])}.", do)
    else:
        yield Check("migrations", "ok", "All are applied, and the tables have every column.")


def _missing_columns() -> Iterator[str]:
    look = connection.introspection
    with connection.cursor() as cursor:
        tables = set(look.table_names(cursor))
        for model in apps.get_models(include_auto_created=True):
            name = model._meta.db_table
            found = {column.name for column in look.get_table_description(cursor, name)} if name in tables else set()
            yield from (f"{name}.{field.column}" for field in model._meta.concrete_fields if field.column not in found)


def _triggers() -> Iterator[Check]:
    if missing := missing_triggers(connection):
        yield Check("append-only triggers", "fail", f"Missing or changed: {', '.join(missing)}.", MIGRATE)
    elif foreign := foreign_triggers(connection):
        do = "Find out who made them: a trigger can keep rows out of the audit log."
        yield Check("append-only triggers", "warn", f"Not the panel's: {', '.join(map(ascii, foreign))}.", do)
    else:
        yield Check("append-only triggers", "ok", "The database refuses changes to the audit log.")


def _grants() -> Iterator[Check]:
    """What the role of this process may do. SQLite has no roles."""
    if connection.vendor != "postgresql":
        return
    tables = [model._meta.db_table for model in apps.get_app_config("taskruns").get_models()]
    with connection.cursor() as cursor:
        lacking = [table for table in tables if not all(_may(cursor, table, right) for right in _needed(table))]
        cursor.execute(
            "SELECT count(*) FROM pg_tables WHERE tablename = ANY(%s) AND pg_has_role(tableowner, 'USAGE')",
            [list(APPEND_ONLY_TABLES)],
        )
        owned = cursor.fetchone()[0]
    do = "Run the GRANT and REVOKE lines of docs/operations.md as the owner of the tables."
    if lacking:
        yield Check("grants", "fail", f"The panel's role lacks rights on {', '.join(lacking[:5])}.", do)
    elif owned:
        says = "The panel's role owns the tables of the audit log, so it could remove their triggers."
        yield Check("grants", "warn", says, "Use two roles, as docs/operations.md shows.")
    else:
        yield Check("grants", "ok", "The panel's role has the rights that it needs, and no others on the audit log.")


def _needed(table: str) -> tuple[str, ...]:
    return ("SELECT", "INSERT") if table in APPEND_ONLY_TABLES else _NEEDED


def _may(cursor: object, table: str, right: str) -> bool:
    cursor.execute("SELECT has_table_privilege(to_regclass(%s), %s)", [table, right])  # type: ignore[attr-defined]
    return bool(cursor.fetchone()[0])  # type: ignore[attr-defined]


def _secrets() -> Iterator[Check]:
    if problem := key_ring.problem():
        yield Check("ring keys", "fail", problem, "Correct ENCRYPTION_KEYS of this process.")
    else:
        numbers = ", ".join(map(str, settings.ENCRYPTION_KEYS))
        yield Check("ring keys", "ok", f"Every stored secret has its key (at hand: {numbers}).")
    if problem := signing_key_problem():
        yield Check("signing key", "fail", problem, "Correct AUDIT_SIGNING_KEY or AUDIT_PUBLIC_KEYS.")
    else:
        yield Check("signing key", "ok", "It continues the audit log.")


def _worker() -> Iterator[Check]:
    for name in (heartbeats.WORKER, heartbeats.QUEUE):
        title = "worker" if name == heartbeats.WORKER else "queue as the worker sees it"
        if heartbeats.was_seen(name, within=SEEN_WITHIN):
            yield Check(title, "ok", "It was seen in the last 3 minutes.")
            continue
        seen = Heartbeat.objects.filter(pk=name).values_list("seen_at", flat=True).first()
        says = f"It was last seen at {seen:%Y-%m-%d %H:%M:%S} UTC." if seen else "It was never seen."
        yield Check(title, "fail", says, "Start the worker, and read its log.")


def _clock() -> Iterator[Check]:
    seconds = abs(heartbeats.database_now() - timezone.now()).total_seconds()
    if seconds > SKEW.total_seconds():
        says = f"This host's clock and the database's differ by {seconds:.0f} seconds."
        yield Check("clock", "fail", says, "Let both hosts follow the same time server.")
    else:
        yield Check("clock", "ok", "It agrees with the database's.")


def _anchors() -> Iterator[Check]:
    if not settings.AUDIT_ANCHOR_FILE:
        do = (
            "Set AUDIT_ANCHOR_FILE to a file that the database's owner cannot write, or collect the audit_anchor lines."
        )
        yield Check("anchor file", "warn", "AUDIT_ANCHOR_FILE is not set.", do)
        return
    path = Path(settings.AUDIT_ANCHOR_FILE)
    if not os.access(path if path.exists() else path.parent, os.W_OK | (0 if path.exists() else os.X_OK)):
        do = "Give the panel's account the right to append to it. Under systemd, add its folder to ReadWritePaths."
        yield Check("anchor file", "fail", "This account cannot append to AUDIT_ANCHOR_FILE.", do)
        return
    try:
        ahead = lead_problem()
    except OSError:
        ahead = "AUDIT_ANCHOR_FILE cannot be read, so it was not compared with the database."
    if ahead:
        yield Check("anchor file", "fail", ahead, "See Restoring in docs/operations.md.")
    else:
        yield Check("anchor file", "ok", "It can be written, and it is not ahead of the database.")


def _restored() -> Iterator[Check]:
    if is_resting():
        do = "Run manage.py restore --adopt to put it into service, unless this is a drill."
        yield Check("restore", "warn", "This panel was restored and is not in service yet.", do)


def _api_keys() -> Iterator[Check]:
    now, soon = timezone.now(), timezone.localdate() + EXPIRES_SOON
    keys = Credential.objects.live().select_related("team").order_by("team__slug", "name")
    for key in keys:
        name, state = f"API key {key.team.slug} / {key.name}", credentials.state_of(key, now)
        if state == credentials.KeyState.FAILING:
            yield Check(name, "fail", "Arize rejects it.", "Replace it, or click Test on the page of API keys.")
        elif key.expires_on is not None and key.expires_on <= soon:
            yield Check(name, "warn", f"Its last day is {key.expires_on}.", "Replace it before.")
        elif state == credentials.KeyState.WAITING:
            yield Check(name, "warn", "It waits after a failure of Arize.", "Nothing, if it is working again soon.")
        else:
            yield Check(name, "ok", "Not used yet." if state == credentials.KeyState.NEW else "It works.")
    if not keys:
        yield Check("API keys", "warn", "There are none.", "Add one with manage.py add_credential.")


_CHECKS: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
    ("completeness", _whole),
    ("migrations", _migrations),
    ("append-only triggers", _triggers),
    ("grants", _grants),
    ("ring keys", _secrets),
    ("worker", _worker),
    ("clock", _clock),
    ("anchor file", _anchors),
    ("restore", _restored),
    ("API keys", _api_keys),
)
