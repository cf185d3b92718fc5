"""Starting and stopping the processes of the Procfile together.

Each process leads its own process group, and the whole group is killed. So no child keeps the port after the terminal
was closed or the leader died.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
# Seconds between SIGTERM and SIGKILL. gunicorn gives its requests 5.
GRACE = 8.0
# The variables that a child process inherits. Others could belong to another deployment.
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM", "LD_LIBRARY_PATH")


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal. A BaseException, so that no `except Exception` catches it."""


class Signals:
    """Turns terminating signals into `Stopped`, raised in the main thread."""

    def __init__(self) -> None:
        self._held = self._came = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup, keep running after the terminal closes.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Delay signals until the end of the block, so that no started process is left untracked."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            raise Stopped

    def ignore(self) -> None:
        """Ignore further signals, so that they do not interrupt stopping."""
        self._held = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if not self._held:
            raise Stopped


@dataclass
class Processes:
    """A context manager: on exit, all processes started in it and all their descendants are stopped.

    With `log_dir`, each process writes to `<name>.log` there; with None, to this terminal.
    """

    environment: Mapping[str, str]
    signals: Signals
    log_dir: Path | None = None
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.signals.ignore()
        stop(list(self._running.values()))

    def start(self, name: str, **extra: str) -> None:
        """Start a process of the Procfile. `extra`: variables for this process only."""
        with self.signals.held():
            self._running[name] = launch(name, environment={**self.environment, **extra}, log=self.log_of(name))

    def log_of(self, name: str) -> Path | None:
        return self.log_dir / f"{name}.log" if self.log_dir else None

    def exited(self) -> str | None:
        """The name of a process that has exited, or None."""
        return next((name for name, process in self._running.items() if process.poll() is not None), None)

    def wait_for_exit(self) -> str:
        while (name := self.exited()) is None:
            time.sleep(0.2)
        return name


def commands() -> dict[str, str]:
    """Name -> shell command, from the Procfile."""
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines)


def launch(name: str, *, environment: Mapping[str, str], log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a line of the Procfile as the leader of a new process group. Appends to the log."""
    shell = ["/bin/sh", "-c", f"exec {commands()[name]}"]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        return subprocess.Popen(  # noqa: S603 - our own Procfile, through the shell that fills in its variables
            shell, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip


def stop(processes: list[subprocess.Popen[bytes]], *, grace: float = GRACE) -> None:
    """Stop the processes and their groups: SIGTERM, up to `grace` seconds in total, then SIGKILL."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
    for process in processes:
        # Even if the leader has exited: one of its children may hang.
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def base_environment() -> dict[str, str]:
    """The inherited variables, with this Python's bin directory first in PATH."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    kept["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", os.defpath)))
    return kept


def is_taken(port: int) -> bool:
    """True if something listens on this port on either loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    if not socket.has_ipv6:
        return False
    with socket.socket(socket.AF_INET6) as probe:
        # For localhost, browsers try ::1 first and would reach the other server.
        return probe.connect_ex(("::1", port)) == 0
