"""Steps with the command `ax`. Each is a process of its own, forked from this one: importing `ax` takes seconds."""

import json
import os
import shlex
import sys
import tempfile
from typing import IO, Any, NoReturn

from ax.cli import app
from protocol import serve

COMMANDS = {
    "spaces": "spaces list --output json",
    "tasks": "tasks list --limit {limit} --output json",
    "task": "tasks get {task} --output json",
    "runs": "tasks list-runs {task} --limit {limit} --output json",
    "runs_table": "tasks list-runs {task} --limit {limit}",
    "run": "tasks get-run {run} --output json",
    "wait": "tasks wait-for-run {run} --poll-interval 1 --timeout {timeout} --output json",
    "cancel": "tasks cancel-run {run} --force --output json",
    "trigger": "tasks trigger-run {task} --data-start-time {data_start_time} --data-end-time {data_end_time} "
    "--output json",
}


class Failed(Exception):
    """The command ended with another code than 0."""

    def __init__(self, code: int, printed: str, errors: str) -> None:
        self.shown = {"code": code, "printed": printed, "text": errors}


def do(step: dict[str, Any]) -> Any:
    """What it printed, read if it is JSON."""
    quoted = {name: shlex.quote(str(argument)) for name, argument in step["with"].items()}
    words = shlex.split(COMMANDS[step["do"]].format(**quoted))
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _become_ax(words, step["key"], printed, errors)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise Failed(code, _text(printed), _text(errors))
        text = _text(printed)
        return json.loads(text) if text.startswith("{") else text


def _become_ax(words: list[str], key: str, printed: IO[bytes], errors: IO[bytes]) -> NoReturn:
    os.environ["ARIZE_API_KEY"] = key
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["ax", *words]
    code = 1
    try:
        app()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


if __name__ == "__main__":
    serve(do, show_error=lambda error: getattr(error, "shown", {"text": repr(error)}))
