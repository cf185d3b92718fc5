"""The real processes of the panel and a simulated Arize, on free ports, with a new database."""

import http.client
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import new_secrets
from config.processes import ROOT, base_environment, launch, stop
from tests.e2e.databases import own_database
from tests.e2e.shell import Shell
from tests.processes import free_ports, wait_for
from tests.sandbox.caller import Caller

START_WITHIN = 40  # seconds
NORTH = "support-bot,search-ranking"
SOUTH = "sales-copilot,fraud-watch"
# The clock of this world is stopped: only tests change it. Each of the two teams has 20 tasks or more.
TASKS = 48
# Running runs that tests can take, one in each of the first tasks. Later tasks are for tests of whole lists.
SPARE = 20
SPARE_LATER = 5


@dataclass
class Stack:
    directory: Path
    database_url: str
    wire: str
    port: int = 0
    sandbox_port: int = 0
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    spare: list[str] = field(default_factory=list)  # ids of running runs of ops-north that no test has taken
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)  # added to the variables of every stack, or replacing them
    shell: Shell | None = None

    def __post_init__(self) -> None:
        self.port, self.sandbox_port = free_ports(2)
        self.keys = {"DEMO_KEY_NORTH": "ak-e2e-north-0001", "DEMO_KEY_SOUTH": "ak-e2e-south-0002"}
        self.secrets = dict(line.split("=", 1) for line in new_secrets.lines().splitlines())

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def arize(self) -> Caller:
        return Caller(f"http://127.0.0.1:{self.sandbox_port}", self.keys["DEMO_KEY_NORTH"])

    @property
    def environment(self) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.sandbox_port}"
        return base_environment() | self.secrets | self.keys | {
            "ENV_FILE": "",
            "SITE_URL": self.url,
            "DATA_DIR": str(self.directory),
            "DATABASE_URL": self.database_url,
            "QUEUE_URL": f"sqlite:///{self.directory / 'queue.sqlite3'}",
            "ARIZE_ENDPOINTS": endpoint,
            "DEMO_ENDPOINT": endpoint,
            "REQUIRE_MFA": "off",
        } | self.variables  # fmt: skip

    # --- Processes

    def start(self, name: str) -> None:
        extra = {
            "SANDBOX_KEYS": f"{self.keys['DEMO_KEY_NORTH']}={NORTH};{self.keys['DEMO_KEY_SOUTH']}={SOUTH}",
            "SANDBOX_PORT": str(self.sandbox_port),
        }
        log = self.directory / f"{name}.log"
        if name != "sandbox":
            self.processes[name] = launch(name, environment=self.environment, log=log)
            return
        command = [sys.executable, "-m", "taskruns.sandbox", "--port", str(self.sandbox_port), "--wire", self.wire]
        command += ["--tasks", str(TASKS), "--speed", "0"]
        with log.open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=base_environment() | extra, stdout=output, stderr=output, start_new_session=True
            )
        wait_for(self._sandbox_answers, "the sandbox", within=START_WITHIN)

    def end(self, name: str) -> None:
        stop([self.processes.pop(name)])

    def kill(self, name: str) -> None:
        """Kill the process group, like a power cut: no process can react."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_all(self) -> None:
        stop(list(self.processes.values()))
        self.processes.clear()

    def _sandbox_answers(self) -> bool:
        try:
            return self.arize.get("/v2/spaces").status == 200
        except OSError:
            return False

    @contextmanager
    def with_debug(self) -> Iterator["Stack"]:
        """A second web process of the same panel, with DEBUG."""
        beside = copy(self)
        (beside.port,), beside.processes, beside.variables = free_ports(1), {}, {"DEBUG": "on"}
        try:
            beside.start("web")
            wait_for(lambda: beside.get("/readyz") == 200, f"/readyz\n{beside.logs()}", within=START_WITHIN)
            yield beside
        finally:
            beside.end_all()

    # --- Commands and requests

    def manage(self, *arguments: str, given: str = "") -> str:
        if self.shell is None:
            self.shell = Shell(self.environment, self.directory / "shell.log")
        return self.shell.run(*arguments, given=given)

    def get(self, path: str) -> int:
        """The status of an anonymous request; 0 if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    # --- Runs

    def take_run(self) -> str:
        """The Arize id of a running run of ops-north that the board shows and no other test uses."""
        if not self.spare:
            self.add_spare(SPARE_LATER)
            self.manage("refresh", "ops-north")
        return self.spare.pop()

    def add_spare(self, count: int) -> None:
        tasks = self.arize.tasks(limit=100)
        for number in range(count):
            runs = self.arize.add_runs(tasks[number % len(tasks)]["id"], status="running")
            self.spare += [run["id"] for run in runs]

    def status_at_arize(self, run_id: str) -> str:
        return str(self.arize.run(run_id)["status"]).lower()

    def cancels_received(self, run_id: str) -> list[dict[str, Any]]:
        listed = self.arize.get("/sandbox/requests", method="POST", path="/cancel").json["requests"]
        quoted = re.escape(run_id.rstrip("="))
        return [entry for entry in listed if re.search(rf"/{quoted}(=|%3D)*/", entry["path"])]

    def logs(self) -> str:
        texts = (f"--- {log.name}\n{_tail(log)}" for log in sorted(self.directory.glob("*.log")))
        return "\n".join(texts)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:])


@contextmanager
def running_stack(
    directory: Path, *, wire: str = "upper", spare: int = SPARE, variables: dict[str, str] | None = None
) -> Iterator[Stack]:
    """Yields when the panel and its worker answer and the mirror holds the sandbox's runs."""
    with own_database(directory) as database_url:
        stack = Stack(directory, database_url, wire, variables=variables or {})
        try:
            stack.start("sandbox")
            _prepare(stack, spare=spare)
            stack.start("worker")
            stack.start("web")
            wait_for(lambda: stack.get("/readyz") == 200, f"/readyz\n{stack.logs()}", within=START_WITHIN)
            yield stack
        finally:
            stack.end_all()
            if stack.shell:
                stack.shell.end()


def _prepare(stack: Stack, *, spare: int) -> None:
    stack.add_spare(spare)
    stack.manage("migrate", "--verbosity", "0")
    stack.manage("collectstatic", "--no-input", "--verbosity", "0")
    table = stack.manage("demo_setup")
    stack.password = re.search(r"^vera@demo\.example\s+(\S+)", table, re.MULTILINE).group(1)
    stack.manage("refresh")
