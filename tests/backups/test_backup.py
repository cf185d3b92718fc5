"""The file of a backup: private, whole, without secrets, and refused if it was changed."""

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from taskruns.services import backups
from taskruns.services.backups import archive
from taskruns.services.backups.contents import described
from taskruns.services.backups.snapshot import sqlite_tables
from tests.backups.deployment import empty_deployment

CONTENT = b"a database" * 1_000
MANIFEST = {"version": "0.1.0", "made_at": "2026-11-23T03:00:00.000000Z", "migrations": [], "engine": "sqlite"}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    copy.write_bytes(CONTENT)
    archive.write(tmp_path / "backup.tar.gz", MANIFEST, copy)
    return tmp_path / "backup.tar.gz"


def unpacked(path: Path) -> bytes:
    target = path.with_name("unpacked")
    backups.Archive(path).unpack(target, lambda _: None)
    return target.read_bytes()


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def repack(path: Path, parts: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_backup_holds_the_copy_and_a_signed_manifest(backup: Path):
    assert unpacked(backup) == CONTENT
    assert list(members(backup)) == ["taskruns-backup.json", "database"]
    manifest = backups.Archive(backup).manifest
    assert {name: manifest[name] for name in MANIFEST} == MANIFEST
    assert manifest["parts"]["database"]["bytes"] == len(CONTENT)


def test_a_backup_is_for_its_owner_only(backup: Path):
    assert backup.stat().st_mode & 0o777 == 0o600
    assert not list(backup.parent.glob(".*")), "nothing is left of the attempt"


def changed_database(path: Path) -> None:
    repack(path, members(path) | {"database": CONTENT.replace(b"a d", b"the", 1)})


def changed_manifest(path: Path) -> None:
    manifest = json.loads(members(path)["taskruns-backup.json"]) | {"version": "9.9.9"}
    repack(path, {"taskruns-backup.json": json.dumps(manifest).encode(), "database": CONTENT})


def changed_both(path: Path) -> None:
    """Whoever changes the copy can compute its digest, but not sign the manifest."""
    changed = CONTENT[::-1]
    manifest = json.loads(members(path)["taskruns-backup.json"])
    manifest["parts"]["database"]["sha256"] = archive.digest_of(io.BytesIO(changed))
    repack(path, {"taskruns-backup.json": json.dumps(manifest).encode(), "database": changed})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def another_file(path: Path) -> None:
    path.write_bytes(b"not a backup")


def another_archive(path: Path) -> None:
    repack(path, {"../../escape": b"x"})


def a_link(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        manifest = members_of_new(path)
        tar.addfile(_sized("taskruns-backup.json", manifest), io.BytesIO(manifest))
        link = tarfile.TarInfo("database")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def members_of_new(path: Path) -> bytes:
    copy = path.with_name("copy")
    archive.write(path.with_name("again.tar.gz"), MANIFEST, copy)
    return members(path.with_name("again.tar.gz"))["taskruns-backup.json"]


def _sized(name: str, content: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed_database, "its SHA-256 differs"),
        (changed_manifest, "its signature is invalid"),
        (changed_both, "its signature is invalid"),
        (cut, "cut short, changed, or no"),
        (another_file, "cut short, changed, or no"),
        (another_archive, "not a backup of Taskruns"),
        (a_link, "not a backup of Taskruns"),
    ],
)
def test_a_changed_backup_is_refused(change: Callable[[Path], None], why: str, backup: Path):
    change(backup)
    with pytest.raises(backups.BadBackup, match=why):
        unpacked(backup)


def test_a_backup_signed_with_an_unknown_key_is_refused(backup: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings, "AUDIT_SIGNING_KEY", b"another signing key, of 32 bytes")
    with pytest.raises(backups.BadBackup, match=r"Set the AUDIT_SIGNING_KEY that was kept with the backup"):
        backups.Archive(backup)


def test_a_newer_backup_is_refused():
    assert backups.refuse_newer({"migrations": ["taskruns.0001_initial"]}) == ""
    newer = {"migrations": ["taskruns.0001_initial", "taskruns.9999_later"], "version": "3.0.0"}
    assert "made by a newer release (3.0.0)" in backups.refuse_newer(newer)


def test_only_older_backups_of_the_folder_are_superfluous(backup: Path):
    folder = backup.parent
    for number, name in enumerate(("older.tar.gz", "oldest.tar.gz")):
        (folder / name).write_bytes(backup.read_bytes())
        os.utime(folder / name, (1_000_000 - number, 1_000_000 - number))
    (folder / "letter.txt").write_text("mine")
    # What an interrupted backup leaves begins like a backup.
    (folder / ".newest.tar.gz.part").write_bytes(backup.read_bytes())
    repack(folder / "others.tar.gz", {"letter": b"mine"})
    assert [old.name for old in backups.older_backups(backup, 1)] == ["older.tar.gz", "oldest.tar.gz"]
    assert [old.name for old in backups.older_backups(backup, 2)] == ["oldest.tar.gz"]
    assert backups.older_backups(backup, 3) == []


def test_the_manifest_describes_the_copy(migrated_file: Path):
    copy = sqlite3.connect(migrated_file)
    copy.row_factory = None
    insert = "INSERT INTO taskruns_auditchain (chain, seq, hash) VALUES ('site', 7, '')"
    copy.execute(insert)
    found: dict[str, Any] = described(copy.execute, sqlite_tables(copy))
    copy.close()
    assert found["chains"] == {"site": 7}
    assert found["rows"]["taskruns_auditchain"] == 1
    assert "taskruns.0001_initial" in found["migrations"]
    assert (found["anchors"], found["ring_numbers"]) == ({}, [])


@pytest.mark.slow
def test_without_a_database_there_is_no_backup(tmp_path: Path):
    with empty_deployment(tmp_path / "empty", tmp_path / "anchors.jsonl") as empty:
        said = empty.refused(2, "backup", str(tmp_path / "backup.tar.gz"))
    assert said.startswith(("No backup was made. The database cannot be read", "The database cannot be used."))
    assert not list(tmp_path.glob("*.tar.gz"))
