"""A move: checks, the copy in one transaction, and what the target needs afterwards."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dj_database_url
from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from taskruns.audit.append_only import missing_triggers
from taskruns.models import CacheEntry, Move, RingKeyCheck
from taskruns.models.run_search import drop_search_index, make_search_index
from taskruns.services import heartbeats
from taskruns.services.query_statistics import refresh_statistics

from .copying import NotTheSame, Progress, copy_all

TARGET = "target"
SEEN_WITHIN = timedelta(seconds=30)
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
_ENGINES = {"django.db.backends.postgresql", "django.db.backends.sqlite3"}
_SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 30,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
}
_MIGRATE = "Run `manage.py migrate` there first, with DATABASE_URL set to the target"


class CannotMove(Exception):
    """Nothing was moved. The text says why and what to do. It never shows the URL, which may hold a password."""


def connect(url: str) -> None:
    """Make the target known to Django. Raises CannotMove."""
    try:
        parsed: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError:
        parsed = {}
    if parsed.get("ENGINE") not in _ENGINES or not parsed.get("NAME"):
        raise CannotMove("The target must be sqlite:////<file> or postgres://<user>@<host>/<database>.")
    if parsed["ENGINE"].endswith("sqlite3"):
        if not Path(str(parsed["NAME"])).is_file():
            raise CannotMove(f"There is no such SQLite file. {_MIGRATE}.")
        parsed["OPTIONS"] = _SQLITE
    own = connections.settings
    own[TARGET] = connections.configure_settings({DEFAULT_DB_ALIAS: own[DEFAULT_DB_ALIAS], TARGET: parsed})[TARGET]


def problem() -> str:
    """Why nothing can be moved now, as a sentence, or ""."""
    source, target = connections[DEFAULT_DB_ALIAS], connections[TARGET]
    if source.vendor == target.vendor:
        return f"Both databases are {NAMES[source.vendor]}. Use `manage.py backup` and `manage.py restore` instead."
    if _migrations(source) != _migrations(target):
        return f"The target does not have the tables of this release. {_MIGRATE}."
    if _has_rows() and not Move.objects.using(TARGET).exists():
        return "The target already has rows, and a move never replaces any. Name a database that was only migrated."
    if missing := missing_triggers(target):
        return f"The target lacks the trigger {missing[0]}, which protects the audit log. {_MIGRATE}."
    if heartbeats.was_seen(heartbeats.WORKER, within=SEEN_WITHIN):
        return "The worker was seen in the last 30 seconds. Stop web and worker, then run this again."
    return ""


def finished_at() -> datetime | None:
    """When the target was filled by an earlier move, if it was."""
    if Move._meta.db_table not in connections[TARGET].introspection.table_names():
        return None
    done = Move.objects.using(TARGET).exclude(finished_at=None)
    return done.values_list("finished_at", flat=True).first()


def _migrations(connection: BaseDatabaseWrapper) -> set[tuple[str, str]]:
    return set(MigrationRecorder(connection).applied_migrations())


def _has_rows() -> bool:
    own = set(apps.get_app_config("taskruns").get_models()) - {CacheEntry, Move, RingKeyCheck}
    return any(model._default_manager.using(TARGET).exists() for model in own)


def move(progress: Progress) -> dict[str, int]:
    """Copy everything. Returns the number of rows of each table. Raises CannotMove; then the target has no rows.

    The marker says that an interrupted move was this command's own: it may be repeated, and until then no panel starts
    there (`unfinished`). The index of the search is made at the end, which is faster than row by row.
    """
    source, target = connections[DEFAULT_DB_ALIAS], connections[TARGET]
    marker, _ = Move.objects.using(TARGET).get_or_create(finished_at=None, defaults={"source": source.vendor})
    try:
        with transaction.atomic(using=DEFAULT_DB_ALIAS), transaction.atomic(using=TARGET):
            _freeze(source)
            drop_search_index(target)
            counts = copy_all(TARGET, progress)
            target.check_constraints()  # before the index: PostgreSQL makes none of a table with pending checks
            make_search_index(target)
            Move.objects.using(TARGET).filter(pk=marker.pk).update(finished_at=timezone.now())
    except NotTheSame as error:
        raise CannotMove(f"Nothing was moved: {error}.") from error
    return counts


def _freeze(source: BaseDatabaseWrapper) -> None:
    """All tables as of one moment. SQLite's transaction is that already, and keeps writers out."""
    if source.vendor == "postgresql":
        with source.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def analyze() -> None:
    """Without statistics, PostgreSQL sorts the rest of a chain for each chunk that a verification reads."""
    target = connections[TARGET]
    if target.vendor == "postgresql":
        with target.cursor() as cursor:
            cursor.execute("ANALYZE")
    else:
        refresh_statistics(using=TARGET)
