"""The clock's jobs: the queue only wakes a worker, the database says what to do."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from huey.contrib.djhuey import HUEY

from taskruns import jobs
from taskruns.models import Credential, Heartbeat, Team
from tests.factories import make_credential
from tests.queue_worker import work

pytestmark = pytest.mark.usefixtures("empty_queue")


@pytest.fixture
def done(monkeypatch: Any) -> list[Any]:
    """The calls to the services, which are recorded and not executed."""
    done: list[Any] = []
    monkeypatch.setattr("taskruns.services.mirror.refresh", done.append)
    monkeypatch.setattr("taskruns.services.cancellations.sweep", lambda: done.append("sweep"))
    return done


def test_every_minute_records_a_heartbeat_and_plans_twelve_ticks(db: None, done: list[Any]) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False):
        jobs.every_minute.call_local()
        jobs.every_minute.call_local()
        assert Heartbeat.objects.get().seen_at == timezone.now()
        now = timezone.now().replace(tzinfo=None)
        etas = sorted((task.eta - now).total_seconds() for task in HUEY.pending() if task.eta)
    assert etas == sorted(list(range(0, 60, 5)) * 2)


def test_ticks_wake_only_the_keys_that_are_due(team: Team, done: list[Any]) -> None:
    key = make_credential(team)
    later = timezone.now() + timedelta(hours=1)
    make_credential(team, name="Later", next_refresh_at=later)
    make_credential(team, name="Waiting", backoff_until=later)
    make_credential(team, name="Failing", failing_since=timezone.now())
    jobs.tick()
    work()
    assert done == [key.pk]


def test_ticks_are_spread_over_the_minute(team: Team, done: list[Any]) -> None:
    make_credential(team)
    jobs.every_minute.call_local()
    counts = []
    for second in (1, 6, 11, 31, 61):
        work(second)
        counts.append(done.count("sweep") * 100 + len([entry for entry in done if entry != "sweep"]))
    assert counts == [101, 102, 103, 107, 112]


def test_late_ticks_do_nothing(team: Team, done: list[Any]) -> None:
    key = make_credential(team)
    jobs.tick()
    work(91)
    assert done == []
    jobs.tick()
    work(85)
    assert done == [key.pk]


def test_a_late_refresh_does_nothing(credential: Credential, done: list[Any]) -> None:
    jobs.wake(credential.pk)
    work(61)
    assert done == []
    jobs.wake(credential.pk)
    work(1)
    assert done == [credential.pk]


def test_the_worker_starts_at_once_and_only_once(db: None, done: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(jobs, "_first_start", threading.Lock())
    for _ in range(4):
        jobs.start()
    assert Heartbeat.objects.exists()
    assert len([task for task in HUEY.pending() if task.eta]) == 12
    work()
    assert done.count("sweep") == 1


def test_an_unreachable_queue_is_logged(credential: Credential, monkeypatch: Any, caplog: Any) -> None:
    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("no queue")

    monkeypatch.setattr(HUEY.storage, "enqueue", down)
    jobs.wake(credential.pk)
    assert "queue_unreachable" in caplog.text


@pytest.mark.parametrize("host", ["localhost", "10.1.2.3", "anything.example"])
def test_health_checks_need_no_host_name_or_session(host: str, client: Client, db: None) -> None:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())
    for path in ("/healthz", "/readyz"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.content) == (200, b"ok\n")
        assert not answer.cookies
    assert client.get("/accounts/login/", headers={"Host": "anything.example"}).status_code == 400


@pytest.mark.parametrize(("seconds", "status"), [(0, 200), (179, 200), (181, 503)])
def test_the_panel_is_ready_if_a_worker_was_seen_recently(seconds: int, status: int, client: Client, db: None) -> None:
    assert client.get("/readyz").status_code == 503
    Heartbeat.objects.create(name="worker", seen_at=timezone.now() - timedelta(seconds=seconds))
    answer = client.get("/readyz")
    assert answer.status_code == status
    assert answer.content == (b"ok\n" if status == 200 else b"not ready\n")
    assert client.get("/healthz").status_code == 200


def test_the_panel_is_not_ready_without_database_or_migrations(client: Client, db: None, monkeypatch: Any) -> None:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())
    assert client.get("/readyz").status_code == 200
    planned = "django.db.migrations.executor.MigrationExecutor.migration_plan"
    with monkeypatch.context() as patch:
        patch.setattr(planned, lambda *_: [("taskruns.9999", False)])
        assert client.get("/readyz").status_code == 503

    def down(*_: Any) -> None:
        raise DatabaseError

    monkeypatch.setattr(planned, down)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.content) == (503, b"not ready\n")
    assert client.get("/healthz").status_code == 200
