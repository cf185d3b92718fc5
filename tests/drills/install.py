"""docs/operations.md, "First install": its commands, read out of the document, as an account without rights."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from config.processes import stop
from tests.drills.document import NOBODY, blocks, run_block, run_shell
from tests.drills.missing import CannotRun
from tests.drills.panel import as_account
from tests.paths import ROOT
from tests.processes import free_ports, wait_for

WHAT = "install the panel in an empty folder, with the commands of the operations guide"
WITHIN = 600.0
START_WITHIN = 60


def run(directory: Path, proved: Callable[[str], None]) -> None:
    if "first-install-files" not in blocks():
        raise CannotRun("docs/operations.md has no commands of a first install")
    directory.chmod(0o711)
    folder = _checkout(directory)
    (port,) = free_ports(1)
    password = folder / "password"
    password.write_text(secrets.token_urlsafe(16))
    _give_to_nobody(folder)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ADMIN_EMAIL": "admin@example.com",
        "PASSWORD_FILE": str(password),
    } | {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_CERT_"))}
    run_block("first-install-files", folder=folder, environment=environment, as_nobody=True)
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    proved("the locked packages are installed, and only the panel's account can read .env")
    settings = f"SITE_URL=http://localhost:{port}\nREQUIRE_MFA=off\n"
    add = f"umask 077; cat >> .env <<'END'\n{settings}END\n"
    run_shell(add, folder=folder, environment=environment, as_nobody=True, what="adding settings")
    run_block("first-install-database", folder=folder, environment=environment, as_nobody=True)
    proved("migrate, collectstatic and the first site admin succeed")
    _start(folder, environment, directory)
    proved("web and worker start, /readyz answers ok, and doctor then exits with 0")
    data = folder / "var"
    assert data.stat().st_mode & 0o777 == 0o700
    private = [path for path in data.iterdir() if path.is_file()]
    assert private
    assert not [path for path in private if path.stat().st_mode & 0o077]
    proved("no other account can enter DATA_DIR or read a file in it")


def _checkout(directory: Path) -> Path:
    """The tracked files, as after `git clone`."""
    folder = directory / "taskruns"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def _give_to_nobody(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


def _start(folder: Path, environment: dict[str, str], directory: Path) -> None:
    """The two commands of the systemd units."""
    processes = []
    try:
        for name in ("web", "worker"):
            with (directory / f"{name}.log").open("ab") as output:
                who = {"stdout": output, "stderr": output, **as_account(NOBODY), "start_new_session": True}
                process = subprocess.Popen(_command(name, folder), cwd=folder, env=environment, **who)
            processes.append(process)
        wait_for(lambda: _doctor(folder, environment) == 0, "doctor to exit with 0", within=START_WITHIN)
    finally:
        stop(processes)


def _command(name: str, folder: Path) -> list[str]:
    unit = (ROOT / f"deploy/systemd/taskruns-{name}.service").read_text()
    (command,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    return command.removeprefix("ExecStart=").replace("/srv/taskruns", str(folder)).split()


def _doctor(folder: Path, environment: dict[str, str]) -> int:
    done = subprocess.run(
        [".venv/bin/python", "manage.py", "doctor"],
        cwd=folder, env=environment, capture_output=True, check=False, **as_account(NOBODY),
    )  # fmt: skip
    return done.returncode
