"""Real processes for batches: the sandbox, workers on the tests' own database, and a check that the rows written here
agree with the requests received there.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from django.db import connection
from django.test.utils import override_settings
from django.utils import timezone

from config.processes import ROOT, base_environment, launch
from taskruns.arize.wire import WireRun
from taskruns.models import (
    AuditEvent,
    BatchSource,
    CancelBatch,
    Cancellation,
    Credential,
    Membership,
    Run,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.services import batches
from taskruns.services.runs.observations import Reading, record_readings
from tests.factories import actor
from tests.processes import wait_for
from tests.sandbox.caller import Caller

KEY = "ak-many-key-0123456789"
# Status of a run in Arize -> the item states that agree with it.
TRUE_STATES = {
    "CANCELLED": {"confirmed", "already_cancelled", "not_needed"},
    "COMPLETED": {"finished_first", "not_needed"},
    "FAILED": {"failed_first", "not_needed"},
    "RUNNING": {"refused", "not_sent", "unknown", "left_out", "still_running"},
}
# The outcomes after which another POST may follow.
BEFORE_ANOTHER = {"refused", "unknown", "not_sent"}
FAULTS = (
    {"path": "/cancel", "status": 429, "headers": {"Retry-After": "1"}, "share": 0.02},
    {"path": "/cancel", "status": 503, "share": 0.01},
    {"path": "/cancel", "cut": "after", "share": 0.01},
)


@dataclass
class WorkerStack:
    """A team with one key for its own sandbox, and the sandbox's runs in the mirror."""

    url: str
    directory: Path
    team: Team
    person: User
    credential: Credential
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    rate: int = 50
    port: int = 0

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    def arize(self) -> Caller:
        return Caller(self.url, KEY)

    def add_runs(self, count: int) -> list[Run]:
        """Add running runs to Arize and to the mirror."""
        (wire_task, *_) = self.arize.tasks()
        task, _ = Task.objects.get_or_create(
            team=self.team,
            endpoint=self.url,
            arize_id=wire_task["id"],
            defaults={"credential": self.credential, "name": wire_task["name"]},
        )
        started, wanted = timezone.now(), []
        for at in range(0, count, 1_000):
            added = self.arize.add_runs(wire_task["id"], status="running", count=min(1_000, count - at))
            record_readings([Reading(task, [WireRun.from_json(run) for run in added], started)])
            wanted += [run["id"] for run in added]
        return list(Run.objects.filter(team=self.team, arize_id__in=wanted))

    def fail(self, *faults: Any) -> None:
        assert self.arize.post("/sandbox/faults", {"faults": list(faults)}).status == 201

    def batch(self, runs: list[Run]) -> CancelBatch:
        ids = [run.pk for run in runs]
        return batches.create_batch(
            self.team, run_ids=ids, reason="a bench", by=actor(self.person), source=BatchSource.SELECTION
        )

    # --- Processes

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self.start("worker")

    @property
    def environment(self) -> dict[str, str]:
        return base_environment() | {
            **{name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")},
            "ENV_FILE": "",
            "SITE_URL": f"http://localhost:{self.port}",
            "DATA_DIR": str(self.directory),
            "DATABASE_URL": database_url(),
            "QUEUE_URL": f"sqlite:///{self.directory / 'queue.sqlite3'}",
            "ARIZE_ENDPOINTS": self.url,
            "CANCELS_PER_SECOND": str(self.rate),
        }

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start `worker` or `web` on the database of this process's tests. Web pages need `collect_static` first."""
        process = launch(name, environment=self.environment, log=self.directory / f"{name}.log")
        self.processes.append(process)
        return process

    def collect_static(self) -> None:
        command = [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity=0"]
        subprocess.run(command, env=self.environment, cwd=ROOT, check=True)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the process group, like a power cut."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.processes.remove(process)

    def wait_for(self, batch: CancelBatch, *, within: float) -> None:
        """Wait until every run of the batch has an outcome."""

        def is_finished() -> bool:
            batch.refresh_from_db()
            return batch.finished_at is not None

        wait_for(is_finished, "the batch", within=within)

    def log(self) -> str:
        file = self.directory / "worker.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-40:]) if file.exists() else ""

    # --- Checking the result

    def faults_of(self, batch: CancelBatch) -> list[str]:
        """Every contradiction between the audit rows, the sandbox's runs and the requests that the sandbox received."""
        at_arize = self._statuses()
        posts = self.posts()
        rows = self._rows()
        found = []
        for item in batch.items.select_related("run"):
            run_id, status = item.run.arize_id, at_arize[item.run.arize_id]
            if item.state not in TRUE_STATES[status]:
                found.append(f"{run_id} is {status}, but its item is {item.state}")
            requested = [row for row in rows[run_id] if row.outcome == "requested"]
            arrived = posts.pop(run_id, [])
            for number, at in enumerate(arrived, start=1):
                if sum(row.at <= at for row in requested) < number:
                    found.append(f"{run_id}: POST {number} came before its row")
            for row in requested[1:]:
                why = [it for it in rows[run_id] if str(it.operation_id) == row.details["previous_operation"]]
                if not any(it.outcome in BEFORE_ANOTHER and it.seq < row.seq for it in why):
                    found.append(f"{run_id}: no row explains another POST")
            if len({str(row.operation_id) for row in requested}) != len(requested):
                found.append(f"{run_id}: an operation was requested twice")
        found += [f"{run_id} got a POST and is in no batch" for run_id in posts]
        if Cancellation.objects.filter(outcome="", run__team=self.team).exists():
            found.append("a cancellation is still open")
        return found

    def _statuses(self) -> dict[str, str]:
        return {
            run["id"]: run["status"] for task in self.arize.tasks() for run in self.arize.runs(task["id"], limit=100)
        }

    def posts(self) -> dict[str, list[datetime]]:
        """Run id -> the times at which its cancels arrived."""
        listed = self.arize.get("/sandbox/requests", method="POST", path="/cancel").json["requests"]
        posts: dict[str, list[datetime]] = defaultdict(list)
        for entry in listed:
            run_id = unquote(entry["path"].split("/")[-2])
            posts[run_id].append(datetime.fromisoformat(entry["at"]))
        return posts

    def _rows(self) -> dict[str, list[AuditEvent]]:
        rows: dict[str, list[AuditEvent]] = defaultdict(list)
        for row in AuditEvent.objects.filter(event="run.cancel", team_id=self.team.pk).order_by("seq"):
            rows[row.run_id].append(row)
        return rows


def database_url() -> str:
    """The url of the database that this process's tests use."""
    found = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{found['NAME']}"
    return (
        f"postgres://{quote(found['USER'])}:{quote(found['PASSWORD'])}@{found['HOST']}:{found['PORT']}/{found['NAME']}"
    )


@contextmanager
def worker_stack(directory: Path, *, rate: int = 50) -> Iterator[WorkerStack]:
    with sandbox() as url, override_settings(ARIZE_ENDPOINTS=(url,)):
        team = Team.objects.create(slug="many", name="Many")
        person = User.objects.create(email="many@example.com")
        Membership.objects.create(team=team, user=person, role=TeamRole.OPERATOR)
        credential = Credential(team=team, name="Many", endpoint=url)
        credential.encrypt_secret(KEY)
        credential.save()
        here = WorkerStack(url, directory, team, person, credential, rate=rate)
        try:
            yield here
        finally:
            for process in list(here.processes):
                here.kill(process)


@contextmanager
def sandbox() -> Iterator[str]:
    command = [sys.executable, "-m", "taskruns.sandbox", "--port", "0", "--tasks", "1", "--speed", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"SANDBOX_KEYS": KEY}, cwd=ROOT
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    try:
        found = re.search(r"http://\S+", ready)
        if found is None:
            raise RuntimeError(ready)
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=10)
