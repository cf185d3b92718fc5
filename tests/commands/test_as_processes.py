"""The commands in a shell: exit codes, and one line or nothing on stderr."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests import forked_command
from tests.factories import CANARY
from tests.wire import ENDPOINT

pytestmark = pytest.mark.slow

Manage = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a deployment with an empty SQLite file."""
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/own.sqlite3"}
    environment.pop("DJANGO_SETTINGS_MODULE")
    return environment


@pytest.fixture
def manage(environment: dict[str, str]) -> Manage:
    def run(*args: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return forked_command.run(["manage.py", *args], given=stdin, env=environment | variables)

    return run


@pytest.fixture
def migrated(migrated_file: Path, tmp_path: Path) -> None:
    shutil.copy(migrated_file, tmp_path / "own.sqlite3")


def test_a_mistake_is_one_line_on_stderr_and_exit_1(manage: Manage) -> None:
    no_tables = manage("create_team", "Ops")
    assert (no_tables.returncode, no_tables.stdout) == (2, ""), "it could not run"
    assert no_tables.stderr.count("\n") == 1
    assert "manage.py migrate" in no_tables.stderr
    assert manage("migrate", "--verbosity", "0").returncode == 0
    made = manage("create_team", "Ops")
    assert (made.returncode, made.stderr) == (0, "")
    refused = manage("add_credential", "ops", "A", "--endpoint", "https://evil.example", "--key-stdin", stdin=CANARY)
    assert (refused.returncode, refused.stderr.count("\n"), CANARY in refused.stderr) == (1, 1, False)
    kept = manage("add_credential", "ops", "A", "--endpoint", ENDPOINT, "--key-stdin", stdin=CANARY)
    assert (kept.returncode, kept.stderr) == (0, "")


def test_help_lists_generated_data_in_the_demo_only(manage: Manage) -> None:
    hidden = {"demo_setup", "fill_runs"}
    usual = set(manage("help").stdout.split())
    assert not hidden & usual
    assert {"backup", "restore", "doctor", "move_to"} <= usual
    assert hidden <= set(manage("help", DEMO_ENDPOINT="http://127.0.0.1:8010").stdout.split())


MISUSES: list[tuple[list[str], str]] = [
    (["create_team"], "required: name"),
    (["add_member", "ops", "a@example.com", "--role", "boss"], "--role: invalid choice"),
    (["add_member", "ops", "a@example.com"], "required: --role"),
    (["fill_runs", "ops", "--runs", "x"], "--runs: invalid int value"),
    (["refresh", "--frequently"], "Unknown option --frequently"),
    (["sweep", "everything"], "Too many arguments"),
    (["add_credential", "ops", "A", "--endpoint", ENDPOINT, f"--key={CANARY}"], "--key-stdin: takes no value"),
    (["add_credential", "ops", "A", "--endpoint", ENDPOINT, "--key", CANARY], "Too many arguments"),
    (["add_credential", "ops", "A", "--endpoint", ENDPOINT, "--secret", CANARY], "Unknown option --secret"),
    (["reset_sign_in", "a@example.com", f"--password={CANARY}"], "--password-stdin: takes no value"),
]


@pytest.mark.parametrize(("args", "why"), MISUSES, ids=lambda value: " ".join(value)[:40] if value[0] != "-" else "")
def test_a_usage_error_shows_no_values(args: list[str], why: str) -> None:
    with pytest.raises(CommandError) as refused:
        call_command(*args)
    sentence = str(refused.value)
    assert why in sentence
    assert (refused.value.returncode, "\n" in sentence, CANARY in sentence) == (1, False, False)


@pytest.mark.parametrize(("command", "code"), [("create_team", 1), ("verify_audit", 2)])
def test_a_usage_error_is_one_line_on_stderr(command: str, code: int, manage: Manage) -> None:
    """For `verify_audit`, exit 1 means that the log has faults."""
    refused = manage(command, "--frequently", f"--key={CANARY}")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (code, "", 1)
    assert CANARY not in refused.stderr
    assert manage(command, "--help").returncode == 0


@pytest.mark.usefixtures("migrated")
def test_log_lines_stay_off_the_terminal(manage: Manage, free_port: int) -> None:
    endpoint = f"http://127.0.0.1:{free_port}"
    manage("create_team", "Ops")
    manage("add_credential", "ops", "A", "--endpoint", endpoint, "--key-stdin", stdin=CANARY, ARIZE_ENDPOINTS=endpoint)
    failed = manage("refresh", ARIZE_ENDPOINTS=endpoint)
    assert failed.returncode == 1
    assert failed.stderr.startswith(
        "CommandError: 1 of 1 API keys failed: ops / A: The panel could not connect to Arize"
    )
    assert failed.stderr.count("\n") == 1
    talkative = manage("refresh", "--verbosity", "2", ARIZE_ENDPOINTS=endpoint)
    lines = [line for line in talkative.stderr.splitlines() if line.startswith("{")]
    assert "mirror_round" in {json.loads(line)["event"] for line in lines}


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("args", [["export_audit", "site"], ["create_team", "West"]])
def test_a_closed_pipe_ends_a_command_quietly(args: list[str], manage: Manage, environment: dict[str, Any]) -> None:
    manage("create_team", "Ops")
    command = [sys.executable, "manage.py", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as ended:
        assert ended.stdout is not None
        assert ended.stderr is not None
        ended.stdout.close()
        assert ended.stderr.read() == ""
    assert ended.returncode == 141
