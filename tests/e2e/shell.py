"""Run `manage.py` commands one after another in one process, because starting Django takes longer than most of them."""

import io
import json
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from config.processes import ROOT


class Shell:
    """The process. Its log goes to `log`, so that it does not mix with the answers."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=ROOT,
                env=environment | {"DJANGO_SETTINGS_MODULE": "config.settings"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str, given: str = "") -> str:
        """Return what the command printed; `given` is its standard input. Fails if the command fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, given]) + "\n")
        self._process.stdin.flush()
        code, printed, errors = json.loads(self._process.stdout.readline())
        assert code == 0, printed + errors
        return str(printed)

    def end(self) -> None:
        self._process.communicate(timeout=20)


def serve() -> None:
    requests, answers = sys.stdin, sys.stdout
    for line in requests:
        arguments, given = json.loads(line)
        sys.stdin = io.StringIO(given)
        answers.write(json.dumps(_called(arguments)) + "\n")
        answers.flush()


def _called(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    from django.core.management import execute_from_command_line

    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as errors:
        try:
            execute_from_command_line(["manage.py", *arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:  # noqa: BLE001 - print a traceback, as the real command does
            traceback.print_exc()
            code = 1
    return code, printed.getvalue(), errors.getvalue()


if __name__ == "__main__":
    serve()
