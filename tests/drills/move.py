"""docs/operations.md, "Moving to PostgreSQL"."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.drills.browser import Browser
from tests.drills.document import blocks, run_block
from tests.drills.missing import CannotRun
from tests.drills.panel import TEAMS, Panel, running, simulated_arize
from tests.drills.postgresql import two_roles
from tests.paths import ROOT

WHAT = "move a panel from SQLite to PostgreSQL"
WITHIN = 300.0
RUNS = 5_000


def run(directory: Path, proved: Callable[[str], None]) -> None:
    if "move-to-postgresql" not in blocks():
        raise CannotRun("docs/operations.md has no commands for a move")
    with simulated_arize(directory) as arize, two_roles(directory) as database:
        panel = Panel(directory, database_url=f"sqlite:///{directory / 'taskruns.sqlite3'}", arize=arize.url)
        panel.manage("migrate", "--verbosity", "0")
        panel.fill()
        panel.manage("fill_runs", TEAMS[0], "--runs", str(RUNS))
        before = _rows(panel)
        owner = {"OWNER_URL": database.url("owner", with_password=False), "PGPASSWORD": database.passwords["owner"]}
        run_block("move-to-postgresql", folder=ROOT, environment=panel.environment | owner)
        database.grant()
        proved(f"move_to copied {RUNS} runs and the audit log, as the owner of the tables")
        panel.environment["DATABASE_URL"] = database.url("app")
        after = _rows(panel)
        assert after[: len(before)] == before
        said = panel.manage("verify_audit")
        assert said.rstrip().endswith("clean"), said
        proved(f"{len(before)} rows of the audit log are the same, to the byte, and verify")
        with running(panel, "worker-1"):
            browser = Browser(panel.url)
            assert browser.sign_in("oli@demo.example", panel.password) == 302
            assert browser.running_runs(TEAMS[0])
            proved("web and worker are ready as the role with fewer rights, and an operator sees the runs")


def _rows(panel: Panel) -> list[str]:
    """The audit log of a team, one JSON object a row."""
    lines = panel.manage("export_audit", TEAMS[0]).splitlines()
    return [line for line in lines if "event" in json.loads(line)]
