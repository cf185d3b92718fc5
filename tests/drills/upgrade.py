"""docs/operations.md, "Upgrade": the kept database of release 0.1.0, with its own keys."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path

from tests.drills.browser import Browser
from tests.drills.panel import Panel, running
from tests.paths import ROOT

WHAT = "upgrade a database of release 0.1.0"
WITHIN = 180.0
KEPT = ROOT / "tests" / "fixtures" / "release_0_1_0.sql"
COUNTED = ("taskruns_auditevent", "taskruns_auditanchor", "taskruns_run", "taskruns_team", "taskruns_user")
PASSWORD = "correct horse battery"


def run(directory: Path, proved: Callable[[str], None]) -> None:
    file = directory / "taskruns.sqlite3"
    with closing(sqlite3.connect(file)) as kept:
        kept.executescript(KEPT.read_text(encoding="utf-8"))
    before = _counts(file)
    panel = Panel(directory, database_url=f"sqlite:///{file}", arize="http://127.0.0.1:9", **_keys())
    panel.environment["AUDIT_ANCHOR_FILE"] = ""  # none was kept
    panel.manage("migrate", "--verbosity", "0")
    panel.manage("collectstatic", "--no-input", "--verbosity", "0")
    assert _counts(file) == before
    said = panel.manage("verify_audit")
    assert said.rstrip().endswith("clean"), said
    proved(f"{before['taskruns_auditevent']} audit rows of 0.1.0 verify, and no row was lost")
    panel.manage("reset_sign_in", "mona@example.com", "--password-stdin", "--drop-mfa", given=PASSWORD)
    with running(panel, "worker-1"):
        browser = Browser(panel.url)
        assert browser.sign_in("mona@example.com", PASSWORD) == 302
        for page in (
            "/teams/ops-north/runs/?status=completed",
            "/teams/ops-north/audit/",
            "/teams/ops-north/credentials/",
        ):
            answer = browser.get(page)
            assert answer.status_code == 200, f"{page}: {answer.status_code} {answer.headers.get('Location', '')}"
    proved("web and worker are ready, and a manager of 0.1.0 sees the board, the log and the API keys")


def _keys() -> dict[str, str]:
    """The kept database was written with the keys of the tests' settings. Importing them changes this process only."""
    import_module("tests.settings")
    return {name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")}


def _counts(file: Path) -> dict[str, int]:
    with closing(sqlite3.connect(file)) as database:
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in COUNTED}
