"""Backups and restores as an operator makes them: commands, on the database that DATABASE_URL names."""

import json
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from taskruns.services.backups import archive
from taskruns.services.backups.contents import described
from taskruns.services.backups.snapshot import sqlite_tables
from tests.backups.deployment import Deployment, empty_deployment
from tests.factories import CANARY
from tests.migrations.kept_database import KEPT
from tests.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.database]

# Writes rows of the log without end, and says so after the first one.
WRITER = """
import django
django.setup()
from django.db import transaction
from taskruns.audit import Actor, EventType, record
from taskruns.models import Team
team = Team.objects.get(slug="ops-north")
first = True
while True:
    with transaction.atomic():
        Team.objects.filter(pk=team.pk).update(name="Ops North")
        record(EventType.TEAM_CHANGE, "done", by=Actor.command(), team=team)
    if first:
        print("writing", flush=True)
    first = False
"""


def manifest_of(backup: Path) -> dict[str, object]:
    with tarfile.open(backup, "r:gz") as tar:
        member = tar.extractfile("taskruns-backup.json")
        assert member is not None
        return dict(json.loads(member.read()))


def test_a_backup_made_under_load_restores_whole(panel: Deployment, target: Deployment, tmp_path: Path):
    backup = tmp_path / "backup.tar.gz"
    env = panel.environment | {"DJANGO_SETTINGS_MODULE": "config.settings"}
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        said = panel.done("backup", str(backup))
        assert writer.poll() is None, "it wrote all the time"
        writer.kill()
    assert f"Backup written: {backup}" in said
    manifest = manifest_of(backup)
    said = target.done("restore", str(backup))
    assert "audit log: clean" in said
    assert "not in service yet" in said
    lost = panel.done("verify_audit", "--chain", "ops-north")
    assert "clean" in lost, "the panel itself still works"
    rows = manifest["rows"]
    assert isinstance(rows, dict)
    chains = manifest["chains"]
    assert isinstance(chains, dict)
    assert rows["taskruns_auditevent"] == sum(chains.values()), "data and manifest are of one moment"
    assert target.done("list_teams") == panel.done("list_teams")
    assert target.done("list_credentials") == panel.done("list_credentials")


def test_a_backup_holds_no_secret_and_names_what_to_keep(panel: Deployment, tmp_path: Path):
    backup = tmp_path / "backup.tar.gz"
    said = panel.done("backup", str(backup))
    for line in ("  SECRET_KEY", "  ENCRYPTION_KEYS (numbers: 2)", "  AUDIT_SIGNING_KEY (key "):
        assert line in said
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup, "r:gz") as tar:
        whole = b"".join(tar.extractfile(member).read() for member in tar)  # type: ignore[union-attr]
    secrets = [panel.environment[name] for name in ("SECRET_KEY", "AUDIT_SIGNING_KEY")]
    secrets += [part.partition(":")[2] for part in panel.environment["ENCRYPTION_KEYS"].split(",")] + [CANARY]
    assert not [secret for secret in secrets if secret.encode() in whole or secret in said]
    assert b"mona@example.com" in whole, "the control"
    assert panel.refused(2, "backup", str(backup)).startswith(f"{backup} already exists.")
    again = panel.done("backup", str(tmp_path / "again.tar.gz"), "--keep", "1")
    assert "Deleted: backup.tar.gz" in again
    assert not backup.exists()


def test_a_restore_says_what_is_lost_and_a_drill_publishes_nothing(
    panel: Deployment, target: Deployment, anchors: Path, backup: Path, tmp_path: Path
):
    panel.done("export_audit", "ops-north")  # a row and an anchor that the backup does not have
    before = anchors.read_bytes()
    said = target.done("restore", str(backup))
    assert "are lost; row" in said
    assert "gap acknowledged: row" in said
    assert "1 token works as when the backup was made." in said
    for command in (("create_team", "Drill"), ("export_audit", "ops-north"), ("verify_audit",)):
        target.done(*command)
    assert anchors.read_bytes() == before
    copy = tmp_path / "anchors.jsonl"
    copy.write_bytes(before)
    assert "clean" in panel.done("verify_audit"), "the drill did not turn production red"
    panel.done("export_audit", "ops-north")
    assert anchors.read_bytes() != before
    said = target.done("verify_audit")
    assert "external anchors were signed after the restore" in said
    assert "clean" in said.splitlines(), "production did not turn the drill red"
    export = tmp_path / "drill.jsonl"
    export.write_text(target.done("export_audit", "ops-north"))
    command = [sys.executable, "-I", "taskruns/verifier.py", str(export), "--anchors", str(copy)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout
    assert "gap acknowledged: row" in checked.stdout


def test_adoption_puts_the_panel_into_service(tmp_path: Path, anchors: Path, backup: Path):
    """With a copy of the anchors: the panel of the other tests has not stopped, so two would write to one file."""
    before = anchors.read_bytes()
    copy = tmp_path / "anchors.jsonl"
    copy.write_bytes(before)
    with empty_deployment(tmp_path / "target", copy) as target:
        target.done("restore", str(backup))
        assert copy.read_bytes() == before, "not before it is adopted"
        assert "is in service" in target.done("restore", "--adopt")
        assert copy.read_bytes() != before
        assert "Nothing changed" in target.done("restore", "--adopt")
        assert "clean" in target.done("verify_audit")


def test_a_restore_replaces_no_database(panel: Deployment, target: Deployment, backup: Path, tmp_path: Path):
    assert panel.refused(2, "restore", str(backup)).startswith("The database in DATABASE_URL already has tables")
    assert "Nothing changed" in panel.done("restore", "--adopt"), "it was never restored"
    assert target.refused(2, "restore").startswith("Name either a backup or --adopt.")
    assert target.refused(2, "restore", str(tmp_path / "none")).startswith("The backup cannot be opened: No such file")


def test_a_broken_backup_leaves_nothing_behind(target: Deployment, backup: Path, tmp_path: Path):
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(backup.read_bytes()[:-500])
    assert target.refused(1, "restore", str(broken)).startswith("Nothing was restored. The backup cannot be read")
    left = [
        path.name for path in target.directory.iterdir() if "restor" in path.name or path.name == "taskruns.sqlite3"
    ]
    assert left == []


def test_a_newer_backup_names_its_release(target: Deployment, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.write_bytes(b"newer")
    engine = "sqlite" if target.url.startswith("sqlite") else "postgresql"
    manifest = {"engine": engine, "migrations": ["taskruns.9999_later"], "version": "9.0.0", "ring_numbers": []}
    archive.write(tmp_path / "newer.tar.gz", manifest, copy)
    said = target.refused(2, "restore", str(tmp_path / "newer.tar.gz"))
    assert said.startswith("This backup was made by a newer release (9.0.0)")
    other = "postgresql" if engine == "sqlite" else "sqlite"
    archive.write(tmp_path / "other.tar.gz", manifest | {"engine": other}, copy)
    assert "then use `manage.py move_to`" in target.refused(2, "restore", str(tmp_path / "other.tar.gz"))


def test_a_backup_of_the_first_release_is_migrated(tmp_path: Path):
    """On SQLite also when the other tests use another database: the kept database is one."""
    copy, backup, file = tmp_path / "copy", tmp_path / "old.tar.gz", tmp_path / "restored.sqlite3"
    with closing(sqlite3.connect(copy)) as kept:
        kept.executescript(KEPT.read_text(encoding="utf-8"))
        manifest = described(kept.execute, sqlite_tables(kept)) | {
            "engine": "sqlite", "version": "0.1.0", "made_at": "2026-11-23T03:00:00.000000Z",
        }  # fmt: skip
    archive.write(backup, manifest, copy)
    # The owner's URL of the real panel, as a drill finds it in .env: nothing connects to it.
    real = {"MIGRATE_DATABASE_URL": "postgres://owner@127.0.0.1:1/real"}
    deployment = Deployment(f"sqlite:///{file}", tmp_path, tmp_path / "anchors.jsonl", real)
    said = deployment.done("restore", str(backup))
    assert "audit log: clean" in said
    assert "There was no file of anchors to compare with" in said
    assert "ops-north" in deployment.done("list_teams")
    assert file.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(file)) as restored:
        assert restored.execute("SELECT COUNT(*) FROM taskruns_personsession").fetchone() == (0,)
        (count,) = restored.execute(
            "SELECT COUNT(*) FROM taskruns_auditevent WHERE event = 'system.restored'"
        ).fetchone()
    assert count == len(manifest["chains"])
