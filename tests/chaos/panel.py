"""The panel's real processes on free ports, with their own database, queue and Redis."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from config import new_secrets
from config.processes import ROOT, base_environment, launch, stop
from tests.chaos.plan import HELD, NORTH, TEAMS, names
from tests.e2e.shell import Shell
from tests.processes import free_ports, wait_for

START_WITHIN = 60.0  # seconds
PASSWORD = "correct horse battery"
# In `held`, hans pulls the emergency stop.
PEOPLE = {NORTH: ("oli", "ona", "olaf"), HELD: ("hans",)}
WATCHER = "ada"  # an auditor: her boards are open all the time
CALLS_PER_MINUTE = 200


class Panel:
    """`webs` and `workers`: how many. `settings`: another settings module than the real one."""

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str,
        queue: str,
        arize: str,
        receiver: str,
        webs: int,
        workers: int,
        settings: str = "",
    ) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.web_names, self.worker_names = names("web", webs), names("worker", workers)
        *ports, self._redis_port = free_ports(webs + 1)
        self.ports = dict(zip(self.web_names, ports, strict=True))
        self.has_redis = queue == "redis:"
        queue_url = f"redis://127.0.0.1:{self._redis_port}/0" if self.has_redis else queue
        made = dict(line.split("=", 1) for line in new_secrets.lines().splitlines())
        self.environment = base_environment() | made | {
            "ENV_FILE": "",
            "DATA_DIR": str(directory),
            "DATABASE_URL": database_url,
            "QUEUE_URL": queue_url or f"sqlite:///{directory / 'queue.sqlite3'}",
            "ARIZE_ENDPOINTS": arize,
            "NOTIFY_HOSTS": urlsplit(receiver).netloc,
            "ARIZE_CALLS_PER_MINUTE": str(CALLS_PER_MINUTE),
            "AUDIT_ANCHOR_FILE": str(directory / "anchors.jsonl"),
            "SITE_URL": f"http://localhost:{ports[0]}",
            "WEB_WORKERS": "1",
            "REQUIRE_MFA": "off",
        } | ({"DJANGO_SETTINGS_MODULE": settings} if settings else {})  # fmt: skip
        self.arize, self.receiver = arize, receiver

    @property
    def urls(self) -> list[str]:
        return [f"http://localhost:{port}" for port in self.ports.values()]

    def prepare(self) -> None:
        """Tables, static files, teams, people, keys and a channel."""
        if self.has_redis:
            self.start("redis")
        shell = Shell(self.environment, self.directory / "shell.log")
        shell.run("migrate", "--verbosity", "0")
        shell.run("collectstatic", "--no-input", "--verbosity", "0")
        for team in TEAMS:
            shell.run("create_team", team.capitalize(), "--slug", team)
        for team, people in PEOPLE.items():
            for person in people:
                member = ("add_member", team, email(person), "--role", "operator", "--create", "--password-stdin")
                shell.run(*member, given=PASSWORD)
        auditor = ("grant_site_role", email(WATCHER), "auditor", "--create", "--password-stdin")
        shell.run(*auditor, given=PASSWORD)
        for team, keys in TEAMS.items():
            for key in keys:
                stored = ("add_credential", team, key, "--endpoint", self.arize, "--key-stdin")
                shell.run(*stored, given=f"ak-chaos-{key}")
        told = ("--kind", "slack", "--address-stdin", "--events", "run.failed,run.cancelled")
        shell.run("add_channel", NORTH, "Chaos", *told, given=self.receiver)
        shell.end()

    def start(self, name: str) -> None:
        running = self.processes.get(name)
        if running is not None and running.poll() is None:
            raise AssertionError(f"{name} runs already: a second one would be forgotten, and never stopped")
        log = self.directory / f"{name}.log"
        if name == "redis":
            with log.open("ab") as output:
                command = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1"]
                command += ["--save", "", "--appendonly", "no", "--dir", str(self.directory)]
                self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            return
        bind = {"BIND": f"127.0.0.1:{self.ports[name]}"} if name in self.ports else {}
        self.processes[name] = launch(name.split("-", maxsplit=1)[0], environment=self.environment | bind, log=log)

    def start_all(self) -> None:
        for name in (*self.worker_names, *self.web_names):
            self.start(name)

    def kill(self, name: str) -> bool:
        """Kill the process group, like a power cut: no process can react. False if it is down already."""
        process = self.processes.pop(name, None)
        if process is None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def restart_ended(self) -> list[str]:
        """Start what has ended by itself, as systemd does. Returns their names."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            self.start(name)
        return ended

    def end_all(self) -> None:
        stop(list(self.processes.values()), grace=1.0)
        self.processes.clear()

    def manage(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def wait_until_ready(self, is_ready: object) -> None:
        wait_for(is_ready, f"the panel\n{self.logs()}", within=START_WITHIN)  # type: ignore[arg-type]

    def logs(self) -> str:
        tails = (
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted(self.directory.glob("*.log"))
        )
        return "\n".join(tails)


def email(person: str) -> str:
    return f"{person}@chaos.example"


@contextmanager
def own_database(directory: Path, server: str) -> Iterator[str]:
    """The url of a new database: a file, or a database on this server. Dropped at the end."""
    if not server.startswith("postgres"):
        yield f"sqlite:///{directory / 'taskruns.sqlite3'}"
        return
    name = f"taskruns_chaos_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
