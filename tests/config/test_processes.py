"""Starting the Procfile's processes and stopping them with all their children."""

import os
from pathlib import Path

import pytest

from config import processes
from tests.processes import wait_for


@pytest.fixture
def procfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    return tmp_path / "Procfile"


def pids_in(path: Path) -> list[int]:
    """The pids, after leader and child have both written theirs."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line) for line in lines] if len(lines) == 2 else []


def is_alive(pid: int) -> bool:
    """False for a zombie whose parent has not read its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_procfile_names_what_a_deployment_runs():
    assert processes.commands().keys() == {"web", "worker", "sandbox"}
    assert processes.commands()["web"] == "gunicorn config.wsgi"


def test_a_command_may_contain_a_colon(procfile: Path):
    procfile.write_text("web: serve --at http://localhost:8000\nworker: work\n")
    assert processes.commands() == {"web": "serve --at http://localhost:8000", "worker": "work"}


@pytest.mark.parametrize("leader", ["ends", "ignores the signal"])
def test_no_child_outlives_a_stop(procfile: Path, leader: str):
    """The child ignores SIGTERM, and its parent may have exited before."""
    child = "trap '' TERM; echo $$ >> pids; while :; do sleep 0.1; done"
    own = "trap '' TERM; " if leader == "ignores the signal" else ""
    (procfile.parent / "child.sh").write_text(child)
    (procfile.parent / "leader.sh").write_text(f"{own}sh child.sh & echo $$ >> pids; wait; wait")
    procfile.write_text("web: sh leader.sh\n")
    process = processes.launch("web", environment=os.environ, log=procfile.parent / "log")
    pids = wait_for(lambda: pids_in(procfile.parent / "pids"), "both processes")
    assert process.pid in pids
    assert all(map(is_alive, pids))
    processes.stop([process], grace=0.3)
    assert process.returncode is not None
    wait_for(lambda: not any(map(is_alive, pids)), "their end", within=5)
