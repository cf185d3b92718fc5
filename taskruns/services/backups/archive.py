"""The file of a backup: a gzipped tar with a manifest and the copy of the database.

The manifest names the digest of the copy, and the audit log's signing key signs the manifest.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskruns.audit.signing_keys import public_keys, sign, signing_key_id
from taskruns.verifier import UNREADABLE, canonical, signature_holds

FORMAT = 1
MANIFEST, DATABASE = "taskruns-backup.json", "database"
LONGEST_MANIFEST = 16 * 2**20  # bytes
_CHUNK = 2**20
_DAMAGE = (OSError, EOFError, tarfile.TarError, *UNREADABLE)

Manifest = dict[str, Any]


class BadBackup(Exception):
    """The file is no backup, or not as it was written. The text says why and what to do."""


def write(path: Path, manifest: Manifest, database: Path) -> str:
    """Write the backup with mode 600, whole or not at all. Returns its SHA-256."""
    part = path.with_name(f".{path.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
                _add(tar, MANIFEST, canonical(_signed(manifest, database)))
                tar.add(database, DATABASE, recursive=False, filter=_anonymous)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = digest_of(file)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return digest


def _signed(manifest: Manifest, database: Path) -> Manifest:
    with database.open("rb") as file:
        part = {"sha256": digest_of(file), "bytes": database.stat().st_size}
    whole = manifest | {"format": FORMAT, "parts": {DATABASE: part}, "key_id": signing_key_id()}
    return whole | {"signature": sign(whole, "backup")}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    tar.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Who made it on which machine is nobody's business."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def digest_of(file: io.BufferedReader | io.BufferedRandom | io.BytesIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


class Archive:
    """A backup to restore. Opening it checks the manifest and its signature; `unpack` checks the digest.

    Raises BadBackup, and OSError if the file cannot be opened at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.digest = digest_of(file)
        self.manifest = manifest_of(path)
        if self.manifest.get("format") != FORMAT:
            raise BadBackup("This backup has a format that this release cannot read. Use the release that made it.")
        keys = public_keys()
        if self.manifest.get("key_id") not in keys:
            raise BadBackup(
                f"The backup is signed with the key {ascii(self.manifest.get('key_id'))[1:-1]}, which this panel does "
                "not have. Set the AUDIT_SIGNING_KEY that was kept with the backup, or add its public key to "
                "AUDIT_PUBLIC_KEYS."
            )
        if not signature_holds(self.manifest, keys, "backup"):
            raise BadBackup("The manifest of the backup was changed: its signature is invalid. Use another copy.")

    def unpack(self, target: Path, progress: Callable[[int], None]) -> None:
        """Write the copy of the database to the target. `progress` is called with the number of bytes."""
        wanted = self.manifest["parts"][DATABASE]
        digest, length = hashlib.sha256(), 0
        try:
            with tarfile.open(self.path, "r:gz") as tar, target.open("wb") as out:
                member = tar.extractfile(_member(tar, DATABASE))
                while member is not None and (chunk := member.read(_CHUNK)):
                    digest.update(chunk)
                    length += len(chunk)
                    progress(out.write(chunk))
                out.flush()
                os.fsync(out.fileno())
        except _DAMAGE as error:
            raise BadBackup(_unreadable(error)) from None
        if (digest.hexdigest(), length) != (wanted["sha256"], wanted["bytes"]):
            raise BadBackup("The database in the backup was changed: its SHA-256 differs. Use another copy.")


def manifest_of(path: Path) -> Manifest:
    """The manifest, unchecked. Raises BadBackup."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            member = tar.next()
            if member is None or member.name != MANIFEST or not member.isreg() or member.size > LONGEST_MANIFEST:
                raise BadBackup("This file is not a backup of Taskruns. Check the path.")
            content = tar.extractfile(member)
            manifest = json.loads(content.read() if content else b"")
    except _DAMAGE as error:
        raise BadBackup(_unreadable(error)) from None
    if not isinstance(manifest, dict):
        raise BadBackup("This file is not a backup of Taskruns. Check the path.")
    return manifest


def _member(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    member = tar.getmember(name)
    if not member.isreg():
        raise BadBackup("This file is not a backup of Taskruns. Check the path.")
    return member


def _unreadable(error: BaseException) -> str:
    return (
        f"The backup cannot be read ({type(error).__name__}): it is cut short, changed, or no backup. Use another copy."
    )
