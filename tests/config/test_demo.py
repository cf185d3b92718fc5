"""`make demo` as a person uses it: one command, a password, a board, Ctrl-C."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from config.processes import ROOT, is_taken
from tests.processes import free_ports, wait_for

pytestmark = pytest.mark.slow

Launch = Callable[..., subprocess.Popen[str]]
LEAKS = {"DATABASE_URL": "postgres://nobody@localhost/real", "SECRET_KEY": "short", "DEBUG": "perhaps"}


@pytest.fixture
def ports() -> list[int]:
    return free_ports(2)


@pytest.fixture
def launch(tmp_path: Path, ports: list[int]) -> Iterator[Launch]:
    started: list[subprocess.Popen[str]] = []
    # These tests may run under nohup, and the demo would then ignore SIGHUP.
    outside = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def start(*arguments: str) -> subprocess.Popen[str]:
        own = {"DEMO_DIR": str(tmp_path / "demo"), "DEMO_PORT": str(ports[0]), "DEMO_SANDBOX_PORT": str(ports[1])}
        process = subprocess.Popen(
            [sys.executable, "-m", "config.demo", *arguments],
            cwd=ROOT,
            # Variables of a real deployment in the same shell must not be used.
            env={**os.environ, **LEAKS, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    signal.signal(signal.SIGHUP, outside)
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def read_until_address(process: subprocess.Popen[str], port: int) -> str:
    """The output up to the URL. Stops early if the demo exits."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line == f"Open http://localhost:{port}/\n":
            return "".join(lines)
    raise AssertionError("".join(lines))


def board_of(port: int, team: str, *, email: str, password: str) -> requests.Response:
    with requests.Session() as session:
        login = f"http://localhost:{port}/accounts/login/"
        session.get(login, timeout=60)
        fields = {"login": email, "password": password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        session.post(login, data=fields, headers={"Referer": login}, timeout=60)
        return session.get(f"http://localhost:{port}/teams/{team}/runs/", timeout=60)


def active_rows(board: requests.Response) -> int:
    return len(re.findall(r'data-status="(?:pending|running)"', board.text))


def passwords_in(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+@demo\.example) +(\S+)", printed, re.MULTILINE))


def test_the_demo_shows_the_board_and_restarts(launch: Launch, ports: list[int], tmp_path: Path) -> None:
    demo = launch()
    printed = read_until_address(demo, ports[0])
    people = passwords_in(printed)
    assert {email.split("@")[0] for email in people} == {"vera", "oli", "mona", "otto", "ada", "adam"}
    shown: set[str] = set()
    for team, person in (("ops-north", "vera"), ("ops-south", "otto")):
        email = f"{person}@demo.example"
        board = board_of(ports[0], team, email=email, password=people[email])
        assert board.status_code == 200
        assert board.text.count("data-run-id=") == 50
        assert active_rows(board) >= 4
        shown |= set(re.findall(r'data-run-id="([^"]+)"', board.text))
        tasks = re.search(r'<select id="filter-task".*?</select>', board.text, re.DOTALL)
        assert tasks is not None
        assert tasks.group().count("<option") > 20
    assert stat.S_IMODE((tmp_path / "demo" / "env").stat().st_mode) == 0o600
    assert demo_processes(tmp_path), "no processes found while the demo is running"

    demo.send_signal(signal.SIGINT)
    assert demo.communicate(timeout=60)[0].strip() == "Stopped."
    assert demo.returncode == 0
    assert demo_processes(tmp_path) == []
    assert [is_taken(port) for port in ports] == [False, False]

    again = launch()
    assert passwords_in(read_until_address(again, ports[0])) == people
    board = board_of(ports[0], "ops-north", email="vera@demo.example", password=people["vera@demo.example"])
    assert board.text.count("data-run-id=") == 50
    assert active_rows(board) >= 4
    assert set(re.findall(r'data-run-id="([^"]+)"', board.text)).isdisjoint(shown), "of the previous sandbox"
    # A closed terminal.
    again.send_signal(signal.SIGHUP)
    again.communicate(timeout=60)
    assert (again.returncode, demo_processes(tmp_path)) == (0, [])


def test_a_dead_process_stops_the_others_with_a_message(launch: Launch, ports: list[int], tmp_path: Path) -> None:
    demo = launch()
    read_until_address(demo, ports[0])
    victim = next(pid for pid, command in demo_processes(tmp_path) if "run_huey" in command)
    os.kill(victim, signal.SIGKILL)
    printed = demo.communicate(timeout=60)[0]
    assert "The worker process exited" in printed
    assert str(tmp_path / "demo" / "log" / "worker.log") in printed
    assert demo.returncode == 1
    assert demo_processes(tmp_path) == []


def test_an_early_ctrl_c_leaves_nothing_behind(launch: Launch, tmp_path: Path, ports: list[int]) -> None:
    demo = launch()
    wait_for(lambda: is_taken(ports[1]), "the sandbox", within=60)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert (demo.returncode, demo_processes(tmp_path)) == (0, [])


@pytest.mark.parametrize(("place", "name"), [(0, "DEMO_PORT"), (1, "DEMO_SANDBOX_PORT")])
def test_a_port_in_use_is_an_error(launch: Launch, ports: list[int], place: int, name: str) -> None:
    with socket.create_server(("127.0.0.1", ports[place])):
        demo = launch()
        printed = demo.communicate(timeout=60)[0]
    assert demo.returncode == 1
    assert printed.startswith(f"Port {ports[place]} is in use")
    assert name in printed
    assert printed.count("\n") == 1


def demo_processes(tmp_path: Path) -> list[tuple[int, str]]:
    """(pid, command) of every process with this demo's directory in its environment: all its descendants."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:  # it just exited
            continue
        if f"ENV_FILE={tmp_path}".encode() in environment:
            found.append((int(entry.name), command.replace(b"\0", b" ").decode()))
    return found
