"""Why a process is not ready is in the log, and never in the answer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import Client
from django.utils import timezone

from taskruns.audit import anchors
from taskruns.models import Heartbeat, Move
from taskruns.services import heartbeats, readiness, unfinished

Why = Callable[[], str]


@pytest.fixture(autouse=True)
def _worker(db: None) -> None:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())


@pytest.fixture
def why(client: Client, caplog: Any) -> Why:
    """What /readyz logs now; empty if it is ready."""

    def ask() -> str:
        caplog.clear()
        answer = client.get("/readyz")
        lines = [line.msg for line in caplog.records if isinstance(line.msg, dict) and line.msg["event"] == "not_ready"]
        assert (answer.status_code, answer.content) == ((503, b"not ready\n") if lines else (200, b"ok\n"))
        assert len(lines) <= 1
        return str(lines[0]["why"]) if lines else ""

    assert ask() == ""
    return ask


def test_an_unapplied_migration_is_named(why: Why, monkeypatch: Any):
    planned = "django.db.migrations.executor.MigrationExecutor.migration_plan"
    monkeypatch.setattr(planned, lambda *_: [(f"taskruns.{number:04}_x", False) for number in range(7)])
    assert why() == (
        "migrations are not applied: taskruns.0000_x, taskruns.0001_x, taskruns.0002_x, taskruns.0003_x, "
        "taskruns.0004_x and 2 more. Run `manage.py migrate`."
    )


def test_a_column_that_a_migration_did_not_make_is_named(why: Why):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE taskruns_lease RENAME COLUMN until TO until_then")
    assert why() == "the database lacks columns of this version: taskruns_lease.until. Restore a backup."


def test_a_process_that_starts_names_it_too(caplog: Any):
    readiness.refuse_start()
    assert caplog.text == ""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE taskruns_lease RENAME COLUMN until TO until_then")
    readiness.refuse_start()
    assert "taskruns_lease.until" in caplog.text


def test_a_broken_move_is_named(why: Why):
    Move.objects.create(source="sqlite")
    assert why() == unfinished.MOVE_INTERRUPTED
    with pytest.raises(ImproperlyConfigured, match="A move into this database was interrupted"):
        readiness.refuse_start()


def test_a_missing_table_is_named(why: Why):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE taskruns_lease RENAME TO taskruns_released")
    assert "taskruns_lease.id" in why()


def test_a_column_that_only_the_database_has_does_no_harm(why: Why):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE taskruns_lease ADD COLUMN of_the_next_release integer")
    assert why() == ""


def limited_role() -> str:
    """A role whose grants count. The owner of the tables can take its own away, but a superuser may do anything."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
        name, is_superuser = cursor.fetchone()
        if is_superuser:
            name = "taskruns_tried"
            cursor.execute("CREATE ROLE taskruns_tried; GRANT USAGE ON SCHEMA public TO taskruns_tried")
            cursor.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO taskruns_tried")
    return str(name)


def test_a_missing_grant_is_named(why: Why):
    if connection.vendor != "postgresql":
        assert readiness.missing_grants() == "", "SQLite has no grants"
        return
    role = limited_role()
    with connection.cursor() as cursor:
        cursor.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON taskruns_auditevent FROM {role}")
        cursor.execute(f"REVOKE UPDATE, TRUNCATE ON taskruns_auditanchor FROM {role}")
        cursor.execute(f"SET LOCAL ROLE {role}")
    assert why() == "", "the log needs fewer grants"
    with connection.cursor() as cursor:
        cursor.execute(f"RESET ROLE; REVOKE DELETE ON taskruns_run FROM {role}; SET LOCAL ROLE {role}")
    assert why() == "the database role lacks grants on taskruns_run. Repeat the GRANT statements."
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")


def test_a_worker_that_was_not_seen_is_named(why: Why):
    Heartbeat.objects.all().delete()
    assert why() == "worker was not seen for 180 s"
    heartbeats.note("worker")
    assert why() == ""


def test_unwritten_anchors_are_named(why: Why, monkeypatch: Any):
    monkeypatch.setattr(anchors, "unwritten_since", timezone.now)
    assert why() == "anchors are not written to AUDIT_ANCHOR_FILE"


@pytest.mark.parametrize("name", ["problem", "signing_key_problem"])
def test_a_wrong_key_is_named(name: str, why: Why, monkeypatch: Any):
    module = readiness.key_ring if name == "problem" else readiness.signing_keys
    monkeypatch.setattr(module, name, lambda: "ENCRYPTION_KEYS has no key 3.")
    assert why() == "ENCRYPTION_KEYS has no key 3."


def test_missing_static_files_are_named(why: Why, monkeypatch: Any):
    storage = SimpleNamespace(location="/srv/static", hashed_files={})
    monkeypatch.setattr(readiness, "staticfiles_storage", storage)
    assert why() == "there are no static files in /srv/static. Run `manage.py collectstatic`, then restart."
    storage.hashed_files = {"app.js": "app.1.js"}
    assert why() == ""


def test_a_full_disk_is_named(why: Why, monkeypatch: Any):
    monkeypatch.setattr(readiness, "LEAST_DISK", 2**60)
    assert ("is full" in why()) is (connection.vendor == "sqlite")
