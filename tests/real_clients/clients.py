"""Run Arize's clients: each in its own environment, as a process of its own.

All take the same steps (`spaces`, `tasks`, `task`, `runs`, `run`, `wait`, `cancel`, `trigger`), and each returns what
it showed its user, in its own form. Two clients are not compared: only one client with itself, at two addresses.
"""

import json
import queue
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.processes import base_environment
from tests.paths import ROOT

ENVIRONMENTS = ROOT / ".venv-clients"
PROGRAMS = Path(__file__).parent / "programs"
ANSWERS_WITHIN = 90  # seconds; the SDK waits 3 times for `Retry-After`
Outcome = dict[str, Any]  # {"result": ...} or {"error": ...}


@dataclass(frozen=True)
class Target:
    """Where a client is pointed at, with which key or token."""

    host: str
    port: int
    key: str


class Program:
    """A process that reads steps and writes outcomes, one a line. It starts with the first step."""

    def __init__(self, folder: Path, command: list[str], *, runs_in: Path | None = None, **variables: str) -> None:
        self.name = folder.name
        self._command = command
        self._runs_in = runs_in or folder
        self._variables = variables
        self._log = folder / "log"
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._asked = 0

    def do(self, target: Target, step: str, **arguments: Any) -> Outcome:
        return self.begin(target, step, **arguments)()

    def begin(self, target: Target, step: str, **arguments: Any) -> Any:
        """Start a step. Returns a function that waits for its outcome."""
        process = self._process or self._start()
        assert process.stdin is not None
        self._asked += 1
        number = self._asked
        asked = {
            "number": number,
            "do": step,
            "with": arguments,
            "host": target.host,
            "port": target.port,
            "key": target.key,
        }
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return lambda: self._read(number)

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=20)

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._runs_in,
                env=base_environment() | self._variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        threading.Thread(target=self._pass_on, args=(self._process,), daemon=True).start()
        return self._process

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):  # the clients' own log lines do not
                self._lines.put(line)
        self._lines.put("")

    def _read(self, number: int) -> Outcome:
        """Skips the outcomes that a failed test did not read."""
        while True:
            line = self._lines.get(timeout=ANSWERS_WITHIN)
            assert line, f"{self.name} ended:\n{self._log.read_text()[-3000:]}"
            outcome = json.loads(line)
            if outcome.pop("number") == number:
                return outcome


class Ax:
    """The command `ax`, with a home directory for each target: the address is in its profile, the key is not."""

    name = "ax"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: dict[tuple[str, int], Program] = {}

    def do(self, target: Target, step: str, **arguments: Any) -> Outcome:
        return self.begin(target, step, **arguments)()

    def begin(self, target: Target, step: str, **arguments: Any) -> Any:
        return self._program(target).begin(target, step, **arguments)

    def end(self) -> None:
        for program in self._programs.values():
            program.end()

    def _program(self, target: Target) -> Program:
        place = (target.host, target.port)
        if place not in self._programs:
            home = self._folder / str(target.port)
            profiles = home / ".arize" / "profiles"
            profiles.mkdir(parents=True)
            (profiles / "test.toml").write_text(PROFILE.format(host=target.host, port=target.port))
            (home / ".arize" / ".active_profile").write_text("test")
            command = [str(python("sdk")), str(PROGRAMS / "ax_command.py")]
            self._programs[place] = Program(home, command, HOME=str(home), COLUMNS="300", NO_COLOR="1")
        return self._programs[place]


PROFILE = """
[profile]
name = "test"
[auth]
api_key = "${{ARIZE_API_KEY}}"
[routing]
api_host = "{host}:{port}"
api_scheme = "http"
[update]
enabled = false
"""

AnyClient = Program | Ax


def python(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"


def all_clients(folder: Path) -> dict[str, AnyClient]:
    """By name. Each has a folder of its own. Fails if their environments are missing."""
    if not all((ENVIRONMENTS / f"{name}.stamp").exists() for name in ("sdk", "airflow", "node")):
        pytest.fail("Arize's clients are not installed. Run `make test-clients`.")
    folders = {name: folder / name for name in ("sdk", "ax", "js", "airflow")}
    for one in folders.values():
        one.mkdir()
    sdk = [str(python("sdk")), str(PROGRAMS / "sdk.py")]
    hook = [str(python("airflow")), str(PROGRAMS / "airflow_hook.py")]
    return {
        "sdk": Program(folders["sdk"], sdk),
        "ax": Ax(folders["ax"]),
        "js": Program(folders["js"], node_command(PROGRAMS / "client.mjs"), runs_in=ENVIRONMENTS / "node"),
        "airflow": Program(folders["airflow"], hook, **airflow_variables(folders["airflow"])),
    }


def node_command(program: Path) -> list[str]:
    """Node.js looks for packages beside a program; given as text, it looks in the current directory."""
    return ["node", "--input-type=module", "--eval", program.read_text(encoding="utf-8")]


def airflow_variables(home: Path) -> dict[str, str]:
    """Without these, Airflow would write to the user's home directory."""
    return {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
