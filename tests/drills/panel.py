"""A panel for drills: real processes on free ports, against a simulated Arize."""

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import new_secrets
from config.processes import ROOT, base_environment, launch, stop
from tests.processes import free_ports, wait_for
from tests.sandbox.caller import Caller

START_WITHIN = 60  # seconds
KEYS = {"DEMO_KEY_NORTH": "ak-drill-north-0001", "DEMO_KEY_SOUTH": "ak-drill-south-0002"}
SPACES = {"DEMO_KEY_NORTH": "support-bot,search-ranking", "DEMO_KEY_SOUTH": "sales-copilot,fraud-watch"}
TEAMS = ("ops-north", "ops-south")
TASKS = 24


def names(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(1, count + 1)]


class Panel:
    """`environment` may be changed; a process sees a change when it starts again."""

    def __init__(self, directory: Path, *, database_url: str, arize: str, webs: int = 1, **variables: str) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = dict(zip(names("web", webs), free_ports(webs), strict=True))
        self.password = ""
        made = dict(line.split("=", 1) for line in new_secrets.lines().splitlines())
        self.environment = base_environment() | made | KEYS | {
            "ENV_FILE": "",
            "SITE_URL": f"http://localhost:{self.ports['web-1']}",
            "DATA_DIR": str(directory),
            "DATABASE_URL": database_url,
            "QUEUE_URL": f"sqlite:///{directory / 'queue.sqlite3'}",
            "AUDIT_ANCHOR_FILE": str(directory / "anchors.jsonl"),
            "ARIZE_ENDPOINTS": arize,
            "DEMO_ENDPOINT": arize,
            "REQUIRE_MFA": "off",
            "WEB_WORKERS": "1",
        } | variables  # fmt: skip

    @property
    def url(self) -> str:
        return self.environment["SITE_URL"]

    def fill(self) -> None:
        """Static files, teams, people, keys and a first reading. The database must be migrated."""
        self.manage("collectstatic", "--no-input", "--verbosity", "0")
        table = self.manage("demo_setup")
        self.password = re.findall(r"^oli@demo\.example\s+(\S+)", table, re.MULTILINE)[0]
        self.manage("refresh")

    def start(self, name: str) -> None:
        bind = {"BIND": f"127.0.0.1:{self.ports[name]}"} if name in self.ports else {}
        log = self.directory / f"{name}.log"
        self.processes[name] = launch(name.split("-", maxsplit=1)[0], environment=self.environment | bind, log=log)

    def end(self, name: str) -> None:
        stop([self.processes.pop(name)])

    def end_all(self) -> None:
        stop(list(self.processes.values()))
        self.processes.clear()

    def restart(self, name: str) -> None:
        """As a service manager does: stop, then start. Returns when the process works."""
        self.end(name)
        self.start(name)
        if name in self.ports:
            self.wait_until_ready(name)

    def wait_until_ready(self, *webs: str, path: str = "/readyz") -> None:
        for name in webs or self.ports:
            try:
                wait_for(lambda name=name: self.get(name, path) == 200, f"{path} of {name}", within=START_WITHIN)
            except AssertionError as waited:
                raise AssertionError(f"{waited}\n{self.logs()}") from None

    def get(self, web: str, path: str) -> int:
        """The status of an anonymous request; 0 if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[web], timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def try_to_manage(self, *arguments: str, given: str = "", **variables: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment | variables,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        return done.returncode, done.stdout + done.stderr

    def manage(self, *arguments: str, given: str = "", **variables: str) -> str:
        code, printed = self.try_to_manage(*arguments, given=given, **variables)
        assert code == 0, f"{' '.join(arguments)} ended with {code}:\n{printed}"
        return printed

    def logs(self) -> str:
        texts = (
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            for log in sorted(self.directory.glob("*.log"))
        )
        return "\n".join(texts)


@contextmanager
def simulated_arize(directory: Path) -> Iterator[Caller]:
    """A caller with the key of ops-north. The clock of this Arize stands still."""
    (port,) = free_ports(1)
    arize = Caller(f"http://127.0.0.1:{port}", KEYS["DEMO_KEY_NORTH"])
    keys = ";".join(f"{KEYS[name]}={SPACES[name]}" for name in KEYS)
    command = [sys.executable, "-m", "taskruns.sandbox", "--port", str(port), "--tasks", str(TASKS), "--speed", "0"]
    with (directory / "sandbox.log").open("ab") as output:
        environment = base_environment() | {"SANDBOX_KEYS": keys}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(lambda: _answers(arize), "the simulated Arize", within=START_WITHIN)
        yield arize
    finally:
        stop([process])


def _answers(arize: Caller) -> bool:
    try:
        return arize.get("/v2/spaces").status == 200
    except OSError:
        return False


@contextmanager
def running(panel: Panel, *processes: str) -> Iterator[Panel]:
    """With these processes and every web process. All are stopped at the end.

    Without a worker, no web process is ready, but pages are served.
    """
    try:
        for name in (*processes, *panel.ports):
            panel.start(name)
        panel.wait_until_ready(path="/readyz" if processes else "/healthz")
        yield panel
    finally:
        panel.end_all()


def as_account(account: int) -> dict[str, int]:
    """For subprocess: run as this account, if this process may."""
    return {"user": account, "group": account} if os.geteuid() == 0 else {}
