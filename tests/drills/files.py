"""docs/operations.md, "Files to deploy with": the programs that will read these files read them now."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.drills.document import blocks
from tests.drills.missing import CannotRun, program
from tests.paths import ROOT

WHAT = "let systemd and the shell read the units, the scripts and every command of the operations guide"
WITHIN = 120.0
DEPLOY = ROOT / "deploy"


def run(directory: Path, proved: Callable[[str], None]) -> None:
    texts = {path.name: path.read_text() for path in sorted((DEPLOY / "compose").glob("*.sh"))}
    texts |= {f"block {name}": text for name, text in blocks().items()}
    for name, text in texts.items():
        _accepted(["/bin/sh", "-n"], given=text, what=name)
    assert _ended(["/bin/sh", "-n"], given="if true; then\n").returncode != 0, "the control"
    proved(f"the shell understands {len(texts)} scripts and blocks of commands")
    units = _units(directory)
    verify = [program("systemd-analyze", "systemd"), "verify", "--man=no"]
    _accepted([*verify, *map(str, units)], what="the units")
    (directory / "broken.service").write_text(units[0].read_text().replace("ExecStart=", "ExecStart=/no/such"))
    assert _ended([*verify, str(directory / "broken.service")]).returncode != 0, "the control"
    proved(f"systemd accepts {len(units)} units, without a warning")
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        security = [program("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", str(unit)]
        found = re.search(r"exposure level for \S+: ([\d.]+)", _ended(security).stdout)
        assert found, unit
        assert float(found[1]) < 2, f"{unit.name}: {found[1]}"
        proved(f"systemd rates the exposure of {unit.name} at {found[1]} of 10")


def _units(directory: Path) -> list[Path]:
    """As they are, but in this checkout, because systemd looks for the programs."""
    if not (ROOT / ".venv/bin/gunicorn").exists():
        raise CannotRun("this checkout has no .venv (make .venv/run.stamp)")
    made = []
    for path in sorted((DEPLOY / "systemd").iterdir()):
        made.append(directory / path.name)
        made[-1].write_text(path.read_text().replace("/srv/taskruns", str(ROOT)))
    return made


def _accepted(command: list[str], *, what: str, given: str = "") -> None:
    done = _ended(command, given=given)
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), f"{what}: {done.stdout}{done.stderr}"


def _ended(command: list[str], *, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)
