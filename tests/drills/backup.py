"""docs/operations.md, "Backup", "Restoring" and "Drills": while people cancel runs."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.drills.browser import Browser, Load, people_at_work
from tests.drills.document import blocks, run_block
from tests.drills.missing import CannotRun
from tests.drills.panel import TEAMS, Panel, running, simulated_arize
from tests.paths import ROOT

WHAT = "back up under load, restore as a drill, and verify both logs"
WITHIN = 600.0
RUNS = 60


@dataclass(frozen=True)
class Databases:
    """URLs. `owner`: the panel's, as the owner of its tables; `drill`: to restore into, also as its owner."""

    panel: str
    owner: str
    drill: str
    grant: Callable[[], None] = lambda: None


def run(directory: Path, proved: Callable[[str], None]) -> None:
    url = f"sqlite:///{directory / 'taskruns.sqlite3'}"
    rehearse(directory, Databases(url, url, f"sqlite:///{directory / 'drill' / 'taskruns.sqlite3'}"), proved)


def rehearse(folder: Path, databases: Databases, proved: Callable[[str], None]) -> None:
    if "backup" not in blocks():
        raise CannotRun("docs/operations.md has no commands for a backup")
    backups, drill = folder / "backups", folder / "drill"
    backups.mkdir(mode=0o700)
    with simulated_arize(folder) as arize:
        tasks = arize.tasks(limit=100)
        for number in range(RUNS):
            arize.add_runs(tasks[number % len(tasks)]["id"], status="running")
        panel = Panel(folder, database_url=databases.panel, arize=arize.url)
        panel.manage("migrate", "--verbosity", "0", DATABASE_URL=databases.owner)
        databases.grant()
        panel.fill()
        with running(panel, "worker-1"):
            load = _back_up_under_load(panel, backups, databases)
            (made,) = backups.iterdir()
            assert made.stat().st_mode & 0o777 == 0o600
            proved(f"one file of {made.stat().st_size} bytes, written during {sum(load.answers.values())} requests")
            names = {"BACKUP": str(made), "DRILL": str(drill), "DRILL_URL": databases.drill}
            said = run_block("drill", folder=ROOT, environment=panel.environment | names)
            assert "audit log: clean" in said, said
            assert "ops-north" in said, said
            assert re.search("^clean$", said, re.MULTILINE), said
            proved("the restored log verifies, and its teams and API keys are there")
            lost = panel.manage("verify_audit")
            assert lost.rstrip().endswith("clean"), lost
            proved("the drill left no trace in the log and the anchors of the real panel")


def _back_up_under_load(panel: Panel, backups: Path, databases: Databases) -> Load:
    load = Load()
    operator, reader = Browser(panel.url), Browser(panel.url)
    for browser, person in ((operator, "oli"), (reader, "vera")):
        assert browser.sign_in(f"{person}@demo.example", panel.password) == 302
    left = operator.running_runs(TEAMS[0])
    assert left

    def click() -> None:
        if left:
            run_id, _ = left.pop()
            load.note("POST cancel", lambda: operator.cancel(TEAMS[0], run_id))
        threading.Event().wait(0.2)

    def read() -> None:
        load.note("GET board", lambda: reader.get(f"/teams/{TEAMS[0]}/runs/"))

    with people_at_work(load, [click, read]):
        owner = {"BACKUPS": str(backups), "DATABASE_URL": databases.owner}
        run_block("backup", folder=ROOT, environment=panel.environment | owner)
    assert not load.failed, load.failed[:10]
    return load
