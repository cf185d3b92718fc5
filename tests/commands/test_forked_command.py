"""`tests.forked_command` starts commands like a new Python does."""

import signal
from typing import Any

import pytest

from tests import forked_command

TOLD = """import os, sys
print(sys.stdin.read(), sys.argv, dict(os.environ), oct(os.umask(0)), "taskruns" in sys.modules)"""


def test_a_process_has_its_own_input_environment_umask_and_arguments() -> None:
    ended = forked_command.run(["-c", TOLD, "x"], env={"A": "b"}, given="né", umask=0o27)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "né ['-c', 'x'] {'A': 'b'} 0o27 False\n", "")
    again = forked_command.run(["-c", "import os; print(dict(os.environ))"], env={})
    assert again.stdout == "{}\n", "nothing is left of the first"


@pytest.mark.parametrize(
    ("code", "wanted"),
    [("import sys; sys.exit(3)", (3, "")), ("import sys; sys.exit('why')", (1, "why\n")), ("pass", (0, ""))],
)
def test_a_process_ends_with_its_exit_code(code: str, wanted: tuple[int, str]) -> None:
    ended = forked_command.run(["-c", code], env={})
    assert (ended.returncode, ended.stderr) == wanted


def test_an_exception_is_a_traceback_and_exit_1() -> None:
    ended = forked_command.run(["-c", "1 / 0"], env={})
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert ended.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_hanging_process_is_killed() -> None:
    hanging: Any = forked_command.run(["-c", "import signal; signal.pause()"], env={}, timeout=0.3)
    assert hanging.returncode == -signal.SIGKILL
