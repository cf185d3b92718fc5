"""The real worker process: it works without its queue, and stops and ends cleanly."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client
from django.utils import timezone
from huey import SqliteHuey
from huey.contrib.djhuey import HUEY

from config.processes import base_environment, launch
from taskruns.models import Credential, Heartbeat, Team
from tests.arize_server import ArizeServer, serving
from tests.batches.worker_stack import database_url
from tests.factories import make_credential
from tests.processes import free_ports, wait_for
from tests.programs import cannot_run

pytestmark = [pytest.mark.slow, pytest.mark.commits, pytest.mark.usefixtures("committed")]
Start = Callable[..., subprocess.Popen[bytes]]
EMPTY = {"spaces": [], "tasks": [], "task_runs": [], "pagination": {"has_more": False}}


@pytest.fixture
def arize_server(settings: Any) -> Iterator[ArizeServer]:
    with serving(ArizeServer(answer=lambda _method, _path: (200, EMPTY))) as server:
        settings.ARIZE_ENDPOINTS = (server.url,)
        yield server


@pytest.fixture
def key(arize_server: ArizeServer) -> Credential:
    team = Team.objects.create(slug="ops", name="Ops", watched_at=timezone.now())
    key = make_credential(team)
    Credential.objects.update(endpoint=arize_server.url)
    return key


@pytest.fixture
def start(tmp_path: Path, arize_server: ArizeServer) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(queue_url: str) -> subprocess.Popen[bytes]:
        environment = base_environment() | {
            **{name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")},
            "ENV_FILE": "",
            "DATA_DIR": str(tmp_path),
            "DATABASE_URL": database_url(),
            "QUEUE_URL": queue_url,
            "ARIZE_ENDPOINTS": arize_server.url,
        }
        began = timezone.now()
        started.append(launch("worker", environment=environment, log=tmp_path / "worker.log"))
        wait_for(Heartbeat.objects.filter(pk="worker", seen_at__gte=began).exists, "the worker")
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def log_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "worker.log").read_text().splitlines()]


def rounds_begin(arize_server: ArizeServer) -> bool:
    """Whether the worker calls Arize from now on, while a board is open."""
    before = len(arize_server.received)

    def has_begun() -> bool:
        Team.objects.update(watched_at=timezone.now())
        Credential.objects.update(next_refresh_at=timezone.now(), tasks_read_at=None)
        return len(arize_server.received) > before

    return wait_for(has_begun, "a round")


@contextmanager
def redis_server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    if shutil.which("redis-server") is None:
        cannot_run("redis-server is not installed (Debian: apt-get install redis-server).")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = redis.Redis(port=port)

    def answers() -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    try:
        wait_for(answers, "redis-server")
        yield process
    finally:
        client.close()
        process.kill()
        process.wait()


def test_the_worker_goes_on_while_redis_is_down(
    start: Start, key: Credential, arize_server: ArizeServer, tmp_path: Path, client: Client
) -> None:
    (port,) = free_ports(1)
    queued = Heartbeat.objects.filter(pk="queue")
    with redis_server(port):
        worker = start(f"redis://127.0.0.1:{port}/0")
        wait_for(lambda: bool(arize_server.received), "the first round")
        wait_for(queued.exists, "the queue's heartbeat")
        assert client.get("/readyz?strict=1").status_code == 200
    down = time.monotonic()
    for _ in range(3):
        assert rounds_begin(arize_server)
    Heartbeat.objects.filter(pk="queue").update(seen_at=timezone.now() - timedelta(seconds=31))
    wait_for(lambda: time.monotonic() - down > 11, "two heartbeats")
    assert not queued.filter(seen_at__gte=timezone.now() - timedelta(seconds=20)).exists()
    assert [client.get(path).status_code for path in ("/readyz", "/readyz?strict=1")] == [200, 503]
    errors = [line for line in log_of(tmp_path) if line["level"] in {"warning", "error"}]
    assert len([line for line in errors if "queue cannot be used" in line["event"]]) == 1
    assert not [line for line in errors if "exception" in line]
    with redis_server(port):
        wait_for(queued.filter(seen_at__gte=timezone.now()).exists, "the queue's return")
        assert worker.poll() is None


def test_the_worker_goes_on_while_its_queue_is_locked(
    start: Start, key: Credential, arize_server: ArizeServer, tmp_path: Path
) -> None:
    file = tmp_path / "queue.sqlite3"
    start(f"sqlite:///{file}")
    foreign = sqlite3.connect(file, isolation_level=None)
    foreign.execute("BEGIN EXCLUSIVE")
    try:
        for _ in range(3):
            assert rounds_begin(arize_server)
    finally:
        foreign.execute("ROLLBACK")
        foreign.close()


def test_a_stopped_worker_gives_back_the_key_of_a_silent_arize(
    start: Start, key: Credential, arize_server: ArizeServer, tmp_path: Path
) -> None:
    gate = threading.Event()
    arize_server.on_arrival = lambda _: gate.wait() and None
    try:
        worker = start(f"sqlite:///{tmp_path / 'queue.sqlite3'}")
        wait_for(lambda: bool(arize_server.received), "a call")
        assert Credential.objects.filter(claimed_until__gt=timezone.now()).exists()
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=8) == 0
        assert time.monotonic() - began < 8
    finally:
        gate.set()
    assert Credential.objects.get(pk=key.pk).claimed_until is None, "another worker may read with it at once"
    assert not [line for line in log_of(tmp_path) if "exception" in line]


Run = Callable[[str], subprocess.Popen[str]]
QUICK = "queue.BROKEN_FOR, queue.TRIED_EVERY = 1.0, 0.2"


@pytest.fixture
def run_worker(tmp_path: Path, arize_server: ArizeServer) -> Iterator[Run]:
    """`run_worker(code)` starts a worker that has executed the code, with `queue` and `HUEY` at hand."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str) -> subprocess.Popen[str]:
        whole = (
            "import sys; from django.core.management import execute_from_command_line as run; import django; "
            f"django.setup(); from huey.contrib.djhuey import HUEY; from taskruns.worker import queue; {code}; "
            "run(['manage', 'run_huey'])"
        )
        environment = base_environment() | {
            **{name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")},
            "ENV_FILE": "",
            "DATA_DIR": str(tmp_path),
            "DATABASE_URL": database_url(),
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "ARIZE_ENDPOINTS": arize_server.url,
        }
        python = shutil.which("python", path=environment["PATH"]) or ""
        command = [*_without_power_over_files(), python, "-c", whole]
        with (tmp_path / "worker.log").open("w") as log:
            started.append(subprocess.Popen(command, env=environment, stderr=log, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def _without_power_over_files() -> list[str]:
    """For root, to whom every directory is writable."""
    return [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override", "--"]


def test_a_worker_ends_if_only_its_own_queue_connection_is_broken(
    key: Credential, run_worker: Run, tmp_path: Path
) -> None:
    worker = run_worker(f"{QUICK}; HUEY.storage.dequeue = lambda: 1 / 0")
    assert_it_gave_up(worker, tmp_path)


def assert_it_gave_up(worker: subprocess.Popen[str], tmp_path: Path) -> None:
    code = worker.wait(timeout=40)
    errors = (tmp_path / "worker.log").read_text()
    assert code == 1, errors
    assert "queue_connection_broken" in errors
    assert "Traceback" not in errors


def test_a_worker_ends_after_its_directory_was_read_only(key: Credential, run_worker: Run, tmp_path: Path) -> None:
    """SQLite then opens the queue read-only, and that connection stays so when the directory is writable again."""
    holder = SqliteHuey(
        HUEY.name, filename=str(tmp_path / "queue.sqlite3")
    ).storage  # a web process: it keeps the WAL's files
    try:
        holder.enqueue(b"a message")
        freeze = (
            "import pathlib; directory = pathlib.Path(HUEY.storage.filename).parent; "
            "[file.chmod(0o400) for file in directory.glob('queue.sqlite3*')]; directory.chmod(0o500)"
        )
        worker = run_worker(f"{QUICK}; {freeze}")
        log = tmp_path / "worker.log"
        wait_for(lambda: "attempt to write a readonly database" in log.read_text(), "the queue to fail")
        failed = time.monotonic()
        wait_for(lambda: time.monotonic() - failed > 3, "more than the time after which it would end")
        assert worker.poll() is None, "a new process could do no more yet"
        thaw(tmp_path)
        assert_it_gave_up(worker, tmp_path)
    finally:
        thaw(tmp_path)
        holder.close()


def thaw(directory: Path) -> None:
    directory.chmod(0o700)
    for file in directory.glob("queue.sqlite3*"):
        file.chmod(0o600)
