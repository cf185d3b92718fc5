"""Messages only wake the worker, and health checks."""

import threading
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError, connection
from django.test import Client
from django.utils import timezone
from huey.contrib.djhuey import HUEY

from taskruns import jobs
from taskruns.models import Credential, EmergencyStop, Heartbeat, Run, Status, Task, Team
from taskruns.services import heartbeats, readiness, stops
from taskruns.services.rare_lines import Rarely
from taskruns.services.runs import facts
from tests.factories import make_run
from tests.queue_worker import every_hour, work

pytestmark = pytest.mark.usefixtures("empty_queue")


@pytest.fixture
def done(monkeypatch: Any) -> list[Any]:
    """The calls to the services, which are recorded and not executed."""
    done: list[Any] = []
    monkeypatch.setattr("taskruns.services.mirror.refresh", done.append)
    monkeypatch.setattr("taskruns.services.cancellations.sweep", lambda: done.append("sweep"))
    return done


def test_a_late_refresh_does_nothing(credential: Credential, done: list[Any]) -> None:
    jobs.wake(credential.pk)
    work(61)
    assert done == []
    jobs.wake(credential.pk)
    work(1)
    assert done == [credential.pk]


def test_in_the_worker_a_message_only_makes_the_clock_look(
    credential: Credential, done: list[Any], monkeypatch: Any
) -> None:
    here = threading.Event()
    monkeypatch.setattr(jobs, "clock", here)
    jobs.wake(credential.pk)
    assert not here.is_set()
    work()
    assert (here.is_set(), done) == (True, [])
    here.clear()
    jobs.wake_batch(credential.pk)
    assert (here.is_set(), len(HUEY.pending())) == (True, 0), "no message to itself"


def test_facts_are_filled_in_after_an_upgrade(task: Task, done: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(facts, "CHUNK", 1)
    monkeypatch.setattr(facts, "CHUNKS", 1)
    for _ in range(3):
        make_run(task, status=Status.COMPLETED, is_filled_in=None)
    every_hour()
    assert not Run.objects.filter(is_filled_in=None).exists()


def test_an_unreachable_queue_is_logged(credential: Credential, monkeypatch: Any, caplog: Any) -> None:
    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("no queue")

    monkeypatch.setattr(HUEY.storage, "enqueue", down)
    monkeypatch.setattr(jobs, "_complaints", Rarely())
    monkeypatch.setattr(jobs, "QUEUE_RESTS", 0.0)
    for _ in range(20):
        jobs.wake(credential.pk)
    assert caplog.text.count("queue_unreachable") == 1
    assert "Traceback" not in caplog.text


def test_a_queue_that_failed_is_left_alone_for_a_while(credential: Credential, monkeypatch: Any) -> None:
    """A silent one takes seconds to fail, and a board wakes each key of its team."""
    tried: list[Any] = []

    def down(*asked: Any, **_: Any) -> None:
        tried.append(asked)
        raise TimeoutError("the queue is silent")

    monkeypatch.setattr(HUEY.storage, "enqueue", down)
    monkeypatch.setattr(jobs, "_queue_rest", jobs._Rest())
    for _ in range(20):
        jobs.wake(credential.pk)
    assert len(tried) == 1
    jobs.wake_password_reset("oli@example.com")
    assert len(tried) == 2, "nothing else would mail it"


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


@pytest.mark.parametrize(
    ("worker", "queue", "ready", "strict"),
    [
        (0, 0, 200, 200),
        (29, 29, 200, 200),
        (31, 0, 200, 503),
        (0, 31, 200, 503),
        (0, None, 200, 503),
        (181, 0, 503, 503),
        (0, 179, 200, 503),
        (0, 181, 503, 503),
    ],
)
def test_the_strict_check_wants_worker_and_queue_seen_lately(
    worker: int, queue: int | None, ready: int, strict: int, client: Client, db: None
) -> None:
    now = timezone.now()
    Heartbeat.objects.create(name="worker", seen_at=now - timedelta(seconds=worker))
    if queue is not None:
        Heartbeat.objects.create(name="queue", seen_at=now - timedelta(seconds=queue))
    assert client.get("/readyz").status_code == ready
    assert client.get("/readyz?strict=1").status_code == strict


def test_a_heartbeat_in_the_future_does_not_count_for_ever(client: Client, db: None) -> None:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now() + timedelta(hours=1))
    assert client.get("/readyz").status_code == 503
    heartbeats.note("worker")
    assert client.get("/readyz").status_code == 200


def test_heartbeats_are_written_and_read_on_the_databases_clock(client: Client, db: None, monkeypatch: Any) -> None:
    monkeypatch.undo()  # the clock that conftest.py stops
    heartbeats.note("worker")
    heartbeats.note("queue")
    assert client.get("/readyz?strict=1").status_code == 200
    with time_machine.travel(timezone.now() + timedelta(hours=1)):
        on_postgresql = connection.vendor == "postgresql"
        assert client.get("/readyz").status_code == (200 if on_postgresql else 503), "SQLite has no other clock"
        heartbeats.note("worker")
        heartbeats.note("queue")
        assert client.get("/readyz?strict=1").status_code == (503 if on_postgresql else 200), "the clocks differ"


def test_a_full_disk_is_not_ready(client: Client, db: None, monkeypatch: Any) -> None:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())
    monkeypatch.setattr(readiness, "LEAST_DISK", 2**60)
    assert client.get("/readyz").status_code == (503 if connection.vendor == "sqlite" else 200)
    assert client.get("/healthz").status_code == 200


def test_an_emergency_stop_that_cannot_end_does_not_keep_others_from_holding(monkeypatch: Any) -> None:
    held = []

    def fail() -> int:
        raise DatabaseError("the audit log of one team is damaged")

    monkeypatch.setattr("taskruns.services.stops.expire", fail)
    monkeypatch.setattr("taskruns.services.stops.hold_all", lambda then: held.append(then) or 1)
    with pytest.raises(DatabaseError):
        jobs.look_after_stops()
    assert len(held) == 1


def test_an_emergency_stop_that_cannot_hold_does_not_keep_others_from_holding(
    team: Team, other_team: Team, monkeypatch: Any
) -> None:
    for it in (team, other_team):
        EmergencyStop.objects.create(team=it, person_label="oli@example.com", reason="why")
    asked, batch = [], object()

    def hold(team_id: Any) -> Any:
        asked.append(team_id)
        if len(asked) == 1:
            raise DatabaseError("the audit log of this team is damaged")
        return batch

    monkeypatch.setattr(import_module("taskruns.services.stops.hold"), "hold", hold)
    new: list[Any] = []
    with pytest.raises(DatabaseError):
        stops.hold_all(new.append)
    assert (set(asked), new) == ({team.pk, other_team.pk}, [batch])
