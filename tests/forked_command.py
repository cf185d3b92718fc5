"""Run commands of the panel as processes, hundreds of them, without importing the same libraries in each.

A server imports the libraries, but nothing of the panel and no settings, and forks for each command. The child has its
own environment, directory, umask, streams and exit code, and imports `config` and `taskruns` itself. Tests of what the
start of Python decides (`-I`, PYTHONIOENCODING, signals, processes that go on) start Python themselves.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.paths import ROOT

# Importing these needs no settings.
LIBRARIES = (
    *("cryptography.fernet", "cryptography.hazmat.primitives.asymmetric.ed25519", "environs", "fido2.server", "jwt"),
    *("gunicorn.app.wsgiapp", "huey", "psycopg", "qrcode", "requests", "structlog", "whitenoise.middleware"),
    *("csp.middleware", "django_htmx.middleware", "django.contrib.staticfiles.storage", "django.core.wsgi"),
    *("django.core.management.commands.check", "django.core.management.commands.migrate", "django.forms"),
    *("django.db.backends.sqlite3.base", "django.db.backends.postgresql.base", "django.db.models.functions"),
    *("django.template.backends.django", "django.template.defaulttags", "django.views.generic", "django.test.client"),
)


def run(
    command: Sequence[str], *, env: Mapping[str, str], given: str = "", umask: int = -1, timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([sys.executable, *command], cwd=ROOT, input=given, ...)` returns.

    `command` starts with a file in the repository, `-m` or `-c`.
    """
    with tempfile.TemporaryDirectory() as directory:
        streams = [Path(directory) / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(given)
        code = _server().run(
            {"command": list(command), "env": dict(env), "umask": umask, "streams": [str(path) for path in streams]},
            timeout,
        )
        return subprocess.CompletedProcess(command, code, streams[1].read_text(), streams[2].read_text())


class _Server:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._process.communicate)

    def run(self, request: dict[str, Any], timeout: float) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request | {"timeout": timeout}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@cache
def _server() -> _Server:
    return _Server()


def _serve() -> dict[str, Any] | None:
    """Answer requests. Returns one in each child, and None in the server after the last."""
    for line in iter(sys.stdin.readline, ""):
        request: dict[str, Any] = json.loads(line)
        if not (child := os.fork()):
            return request
        signal.signal(signal.SIGALRM, lambda *_, child=child: os.kill(child, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, request["timeout"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
    return None


def _become(command: list[str], env: dict[str, str], umask: int, streams: list[str]) -> None:
    """Run the command like a new Python."""
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2)
    for number, (path, how) in enumerate(zip(streams, flags, strict=True)):
        os.dup2(os.open(path, how), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the old object may have read ahead
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    if umask >= 0:
        os.umask(umask)
    first, rest = command[0], command[1:]
    if first == "-c":
        sys.argv, code = ["-c", *rest[1:]], rest[0]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(str(ROOT / first), run_name="__main__")


def main() -> None:
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # the children share these pages, and need not search them for garbage
    request = _serve()
    if request is not None:
        del request["timeout"]
        _become(**request)


if __name__ == "__main__":
    main()
