"""`make demo`: the whole panel against a simulated Arize, with two teams, their people and their keys.

All its files are under `var/demo`. It uses neither `.env` nor the environment variables of a real deployment.
"""

import argparse
import http.client
import io
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from config import new_secrets, private_files
from config.processes import ROOT, Processes, Signals, Stopped, base_environment, is_taken

# Each team's key sees two of the sandbox's four spaces.
SPACES = {"DEMO_KEY_NORTH": "support-bot,search-ranking", "DEMO_KEY_SOUTH": "sales-copilot,fraud-watch"}
TEAMS = ("ops-north", "ops-south")
# The demo is ready when each team's board shows runs of this many of its 24 tasks, at least one of them active.
ENOUGH_TASKS = 20
STARTUP_TIMEOUT = 50.0  # seconds


class Refused(Exception):
    """The demo cannot run. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Demo:
    directory: Path
    port: int
    sandbox_port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.sandbox_port}"

    @property
    def env_file(self) -> Path:
        return self.directory / "env"

    @property
    def people_file(self) -> Path:
        return self.directory / "people"

    @property
    def log_dir(self) -> Path:
        return self.directory / "log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after Ctrl-C, 1 with an error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m config.demo", description="Run the demo until Ctrl-C.")
    parser.add_argument("--reset", action="store_true", help="set a new password for the people of the demo")
    options = parser.parse_args(arguments)
    private_files.only_for_us()
    signals = Signals()
    try:
        demo = _demo_of_environment()
        variables = _prepare(demo)
        with Processes(base_environment() | {"ENV_FILE": str(demo.env_file)}, signals, demo.log_dir) as processes:
            return _run(demo, processes, variables, reset=options.reset)
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    except Stopped:
        with suppress(OSError):  # the terminal may be closed
            _say("\nStopped.")
        return 0


def _demo_of_environment() -> Demo:
    """Raises Refused for ports that cannot be used."""
    directory = Path(os.environ.get("DEMO_DIR") or ROOT / "var" / "demo").absolute()
    demo = Demo(directory, _port("DEMO_PORT", 8000), _port("DEMO_SANDBOX_PORT", 8010))
    if demo.port == demo.sandbox_port:
        raise Refused("DEMO_PORT and DEMO_SANDBOX_PORT must differ. Set one of them to another port.")
    return demo


def _port(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise Refused(f"{name} must be a port number from 1 to 65535.")
    if is_taken(int(text)):
        raise Refused(f"Port {text} is in use. Stop the other process, or choose another port with {name}=...")
    return int(text)


def _prepare(demo: Demo) -> dict[str, str]:
    """Create the directory and the env file (mode 600), with new secrets the first time. Returns its variables."""
    for directory in (demo.directory, demo.log_dir):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in demo.log_dir.glob("*.log"):
        old.unlink()
    variables = _secrets(demo) | {
        "SITE_URL": demo.url,
        "DATA_DIR": str(demo.directory),
        "ARIZE_ENDPOINTS": demo.endpoint,
        # The sandbox shows what channels send.
        "NOTIFY_HOSTS": demo.endpoint.partition("://")[2],
        "DEMO_ENDPOINT": demo.endpoint,
        "DEBUG": "off",
        "REQUIRE_MFA": "off",
    }
    _write_private(demo.env_file, "".join(f"{name}={value}\n" for name, value in variables.items()))
    return variables


def _secrets(demo: Demo) -> dict[str, str]:
    """The secrets of the last start, if any, so that the stored data can still be decrypted."""
    kept = demo.env_file.read_text(encoding="utf-8") if demo.env_file.exists() else ""
    new = _variables(new_secrets.lines()) | {name: f"ak-demo-{secrets.token_urlsafe(24)}" for name in SPACES}
    return {name: _variables(kept).get(name, value) for name, value in new.items()}


def _variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _run(demo: Demo, processes: Processes, variables: dict[str, str], *, reset: bool) -> int:
    _say("Setting up the database and the demo accounts ...")
    os.environ.clear()
    os.environ.update({**processes.environment, **variables})
    began = datetime.now(tz=UTC)
    people = _set_up(demo, reset=reset)
    keys = ";".join(f"{variables[name]}={spaces}" for name, spaces in SPACES.items())
    # A new seed for each start: a run cancelled in an earlier demo must not reappear as running.
    seed = str(int(time.time()))
    processes.start("sandbox", SANDBOX_KEYS=keys, SANDBOX_PORT=str(demo.sandbox_port), SANDBOX_SEED=seed)
    processes.start("worker")
    processes.start("web")
    _wait(demo, processes, began)
    _say(f"\n{people}\nMessages: {demo.endpoint}/sandbox/inbox")
    _say(f"Logs: {_short(demo.log_dir)}. Press Ctrl-C to stop the demo.\nOpen {demo.url}/")
    raise Refused(_exit_message(processes, processes.wait_for_exit()))


def _set_up(demo: Demo, *, reset: bool) -> str:
    """Set up database, static files, teams, people and keys. Returns the table of people and passwords.

    The database has only password hashes, so the table is saved in a file. If the file is missing, new passwords are
    set.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    reset = reset or not demo.people_file.exists()
    table = io.StringIO()
    call_command("demo_setup", reset=reset, new_world=True, stdout=table)
    if reset:
        _write_private(demo.people_file, table.getvalue())
    return demo.people_file.read_text(encoding="utf-8")


def _wait(demo: Demo, processes: Processes, began: datetime) -> None:
    """Wait until the panel answers and its boards show runs. Raises Refused if a process exits."""
    deadline = time.monotonic() + STARTUP_TIMEOUT
    progress = Progress()
    if not _until(lambda: _answers(demo, "/readyz") and _answers(demo, "/accounts/login/"), processes, deadline):
        raise Refused(f"The panel did not answer in {STARTUP_TIMEOUT:.0f} s. See the logs in {_short(demo.log_dir)}.")
    if not _until(lambda: progress.shows(_boards(since=began)), processes, deadline):
        _say(f"Not all runs were read within {STARTUP_TIMEOUT:.0f} s. The board keeps filling while you use it.")


def _until(condition: Callable[[], bool], processes: Processes, deadline: float) -> bool:
    while not condition():
        if (name := processes.exited()) is not None:
            raise Refused(_exit_message(processes, name))
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def _exit_message(processes: Processes, name: str) -> str:
    log = processes.log_of(name)
    return f"The {name} process exited, so everything was stopped. Its log says why: {_short(log) if log else ''}"


def _answers(demo: Demo, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _boards(*, since: datetime) -> dict[str, tuple[int, int]]:
    """Team -> (number of tasks with runs, number of active runs), for tasks listed since the given time."""
    from django.db.models import Count, Sum

    from taskruns.models import Run

    runs = Run.objects.filter(team__slug__in=TEAMS, task__listed_at__gte=since)
    rows = runs.values_list("team__slug").annotate(Count("task", distinct=True), Sum("rank"))
    return dict.fromkeys(TEAMS, (0, 0)) | {slug: (tasks, active) for slug, tasks, active in rows}


class Progress:
    """One line that is overwritten in a terminal; elsewhere a new line for each change."""

    def __init__(self) -> None:
        self._last = ""

    def shows(self, boards: dict[str, tuple[int, int]]) -> bool:
        """Print the progress. True if every team's board has enough runs."""
        seen = (f"{slug} {tasks} tasks, {active} active runs" for slug, (tasks, active) in boards.items())
        text = "Reading runs from the sandbox: " + "; ".join(seen)
        is_full = all(tasks >= ENOUGH_TASKS and active > 0 for tasks, active in boards.values())
        if text != self._last:
            over = sys.stdout.isatty()
            sys.stdout.write(("\r" if over else "") + text + ("\n" if is_full or not over else ""))
            sys.stdout.flush()
        self._last = text
        return is_full


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
