"""What the image, `compose.yaml` and the systemd units deny: a writable root, capabilities, executable memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from config.processes import ROOT, commands, stop
from tests.drills.document import NOBODY
from tests.drills.missing import program
from tests.drills.panel import START_WITHIN, Panel, simulated_arize
from tests.processes import wait_for

WHAT = (
    "run web and worker with a read-only root, without capabilities and without memory that is writable and executable"
)
WITHIN = 180.0
# What MemoryDenyWriteExecute=yes does: prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), on Linux 6.3 and newer. Programs
# that this one becomes or starts inherit it.
_REFUSE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit("This kernel does not know PR_SET_MDWE.")
os.execvp(sys.argv[1], sys.argv[1:])
"""
_REFUSING = [sys.executable, "-c", _REFUSE]


def run(directory: Path, proved: Callable[[str], None]) -> None:
    data = directory / "data"
    data.mkdir(mode=0o700)
    with simulated_arize(directory) as arize:
        panel = Panel(data, database_url=f"sqlite:///{data / 'taskruns.sqlite3'}", arize=arize.url)
        panel.manage("migrate", "--verbosity", "0")
        panel.fill()
        assert _writes(data, data / "allowed") == 0
        assert _writes(data, ROOT / "refused") != 0
        assert _writes(data, Path("/var/tmp/refused")) != 0
        proved("only the data directory can be written")
        processes = []
        try:
            for name, extra in (("web", {"BIND": f"127.0.0.1:{panel.ports['web-1']}"}), ("worker", {})):
                with (directory / f"{name}.log").open("ab") as output:
                    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
                    command = [
                        *_REFUSING,
                        *_confined(data),
                        "/bin/sh",
                        "-c",
                        f"exec {commands()[name]}",
                    ]
                    environment = panel.environment | extra
                    processes.append(subprocess.Popen(command, env=environment, **streams, start_new_session=True))
            wait_for(lambda: panel.get("web-1", "/readyz") == 200, "/readyz", within=START_WITHIN)
        except AssertionError as waited:
            logs = "\n".join((directory / f"{name}.log").read_text()[-3_000:] for name in ("web", "worker"))
            raise AssertionError(f"{waited}\n{logs}") from None
        finally:
            stop(processes)
        proved("web and worker start, and /readyz answers ok")


def _confined(data: Path) -> list[str]:
    """As in a container of compose.yaml."""
    command = [program("bwrap", "bubblewrap"), "--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp"]
    # A checkout or data under /tmp would be hidden by the new /tmp.
    for path in (ROOT, Path(sys.prefix).resolve()):
        if path.is_relative_to("/tmp"):
            command += ["--ro-bind", str(path), str(path)]
    command += ["--bind", str(data), str(data), "--cap-drop", "ALL", "--die-with-parent", "--chdir", str(ROOT)]
    return [*command, "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]


def _writes(data: Path, file: Path) -> int:
    """The exit code of a program in there that writes the file."""
    command = [*_confined(data), "/bin/sh", "-c", 'echo > "$0"', str(file)]
    return subprocess.run(command, check=False, capture_output=True).returncode
