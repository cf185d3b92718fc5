"""Making a backup, saying in the audit log what a restore lost, and adopting a restored panel."""

import re
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from taskruns import __version__
from taskruns.audit import Actor, EventType, record, record_restored
from taskruns.audit.anchors import anchor_changed, lead_problem, publish, publish_again
from taskruns.audit.raw_rows import tolerant_text, with_number
from taskruns.audit.record import SITE_CHAIN
from taskruns.audit.row_json import value_as_json
from taskruns.audit.signing_keys import public_keys, signing_key_problem
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, Delivery, PersonSession, Restore
from taskruns.models.channels import UNSENT
from taskruns.services.audit import AnchorFile, NoAnchors
from taskruns.services.audit.rows import ANCHOR, stream_values
from taskruns.services.user_errors import UserError
from taskruns.verifier import signature_holds

from . import archive
from .snapshot import take

_CHAIN = re.compile(r"team:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HIGHEST = 2**62  # no log gets so long
NAMED = 20  # superseded anchors in one row, the newest; the others are counted
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    digest: str
    manifest: Manifest
    bytes: int


def create(path: Path) -> Made:
    """Write a backup to this new file. Raises UserError, CannotDump, OSError."""
    if path.exists():
        raise UserError(f"{path} already exists. Choose another name: a backup never replaces a file.")
    if not path.parent.is_dir():
        raise UserError(f"There is no directory {path.parent}. Create it, or choose another one.")
    # The signature of another key could not be checked by the panel that restores.
    if problem := signing_key_problem():
        raise UserError(problem)
    with tempfile.TemporaryDirectory(prefix=".taskruns-backup-", dir=path.parent) as directory:
        copy = Path(directory) / "database"
        contents = take(copy)
        manifest = {"version": __version__, "made_at": value_as_json(timezone.now())} | contents
        digest = archive.write(path, manifest, copy)
    return Made(digest, manifest, path.stat().st_size)


def older_backups(path: Path, keep: int) -> list[Path]:
    """The backups in the same folder beyond the newest `keep`, this one included. Other files do not count.

    Nor do hidden ones, which an interrupted backup may have left: they begin like a backup, but are not whole.
    """
    visible = [other for other in path.parent.iterdir() if not other.name.startswith(".")]
    found = [other for other in visible if other.is_file() and not other.is_symlink()]
    backups = [other for other in found if _is_backup(other)]
    newest_first = sorted(backups, key=lambda other: (other == path, other.stat().st_mtime), reverse=True)
    return newest_first[max(keep, 1) :]


def _is_backup(path: Path) -> bool:
    try:
        return "parts" in archive.manifest_of(path)
    except archive.BadBackup:
        return False


# Restoring


def problem_of_target(manifest: Manifest) -> str:
    """A sentence if this kind of database cannot take the backup, or ""."""
    if manifest.get("engine") == connection.vendor:
        return ""
    names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    return (
        f"This is a backup of {names.get(str(manifest.get('engine')), 'another database')}, but DATABASE_URL names "
        f"{names[connection.vendor]}. Restore it into a database of its own kind, then use `manage.py move_to`."
    )


def refuse_newer(manifest: Manifest) -> str:
    """A sentence if the backup was made by a newer release, or "". Apps that are no longer installed do not count."""
    loader = MigrationLoader(None)
    known = {f"{app}.{name}" for app, name in loader.disk_migrations}
    applied = {name for name in manifest.get("migrations", ()) if name.partition(".")[0] in loader.migrated_apps}
    if applied <= known:
        return ""
    return (
        f"This backup was made by a newer release ({ascii(manifest.get('version'))[1:-1]}) than this one "
        f"({__version__}). Install that release, then restore."
    )


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the row of the restore in one chain says. `first` and `last`: the lost rows, None if none is known."""

    chain: str
    seq: int
    first: int | None
    last: int | None


@transaction.atomic
def acknowledge(backup: archive.Archive, *, anchors: AnchorFile | None, by: Actor) -> list[Acknowledged]:
    """Let the restored panel rest, end all sessions, and write a row to each chain that says what is lost.

    `anchors`: the known anchors outside the database. Sessions that were ended after the backup must not come back.
    """
    PersonSession.objects.all().delete()
    made_at = datetime.fromisoformat(backup.manifest["made_at"])
    restore = Restore.objects.create(restored_by=by.label, backup=backup.digest, backup_made_at=made_at)
    return [_acknowledge(_Loss.of(chain, anchors), restore, by=by) for chain in _chains(anchors)]


def _acknowledge(loss: "_Loss", restore: Restore, *, by: Actor) -> Acknowledged:
    first, last = (loss.kept + 1, loss.highest) if loss.highest > loss.kept else (None, None)
    details = {
        "backup": restore.backup,
        "backup_made_at": value_as_json(restore.backup_made_at),
        "restored_at": value_as_json(restore.restored_at),
        "restored_by": by.label,
        "missing_from": first,
        "missing_to": last,
        "at_least": True,  # rows that no known anchor names may be lost too
        "superseded": list(loss.superseded),
        "superseded_count": loss.count,
    }
    row = record_restored(loss.chain, seq=loss.highest + 1, details=details, by=by)
    return Acknowledged(loss.chain, row.seq, first, last)


@dataclass(slots=True)
class _Loss:
    """`kept`: the number of the last restored row. `highest`: the highest number that anything known names."""

    chain: str
    kept: int
    highest: int
    count: int = 0
    superseded: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=NAMED))

    @classmethod
    def of(cls, chain: str, anchors: AnchorFile | None) -> "_Loss":
        rows = with_number(AuditEvent.objects.filter(chain=chain)).order_by("-seq")
        kept = rows.values_list("seq", flat=True).first() or 0
        keys = public_keys()
        loss = cls(chain, kept, max(kept, _head(chain), *_signed_numbers(chain, kept, keys)))
        for anchor in anchors.of(chain) if anchors else ():
            if anchor["seq"] > kept and signature_holds(anchor, keys):
                loss.count += 1
                loss.highest = max(loss.highest, anchor["seq"])
                loss.superseded.append({"seq": anchor["seq"], "hash": anchor["hash"], "key_id": anchor["key_id"]})
        return loss


def _head(chain: str) -> int:
    """The number in the chain's head. Raises BadBackup if the panel cannot have written it."""
    with tolerant_text():
        found = AuditChain.objects.filter(chain=chain).values_list("seq", flat=True).first()
    if found is not None and (type(found) is not int or not 0 <= found <= HIGHEST):
        raise archive.BadBackup(f"Its audit log {chain} has an impossible head. Use an older backup.")
    return found or 0


def _signed_numbers(chain: str, after: int, keys: dict[str, bytes]) -> Iterator[int]:
    """The numbers above `after` that an anchor in the database names. What someone planted does not count."""
    for anchor in stream_values(AuditAnchor.objects.filter(chain=chain, seq__gt=after), ANCHOR):
        if signature_holds(anchor, keys):
            yield anchor["seq"]


def _chains(anchors: AnchorFile | None) -> Iterator[str]:
    """Every chain of the database, and those that only anchors name: teams created after the backup."""
    known = set(AuditChain.objects.values_list("chain", flat=True)) | {SITE_CHAIN}
    for chain in sorted(known | (_signed_chains(anchors) if anchors else set())):
        if chain == SITE_CHAIN or _CHAIN.fullmatch(chain):
            yield chain


def _signed_chains(anchors: AnchorFile) -> set[str]:
    keys = public_keys()
    return {chain for chain in anchors.chains() if any(signature_holds(anchor, keys) for anchor in anchors.of(chain))}


def known_anchors(given: Path | None) -> AnchorFile | None:
    """The given file, else AUDIT_ANCHOR_FILE if there is one. Raises NoAnchors if it cannot be used."""
    path = given or (Path(settings.AUDIT_ANCHOR_FILE) if settings.AUDIT_ANCHOR_FILE else None)
    if path is None or (given is None and not path.exists()):
        return None
    try:
        return AnchorFile(path)
    except NoAnchors:
        if given is None and path.stat().st_size == 0:
            return None
        raise


def adopt(*, by: Actor) -> bool:
    """Let a restored panel work again, and publish its anchors. False if it was not resting.

    Raises UserError if the anchor file has grown since the restore: the panel whose backup it is still works.
    """
    with transaction.atomic():
        resting = Restore.objects.select_for_update(no_key=True).filter(adopted_at=None).order_by("-restored_at")
        restores = list(resting)
        if not restores:
            return False
        if problem := lead_problem():
            raise UserError(f"{problem} Was the panel still working after this backup was made? Then restore again.")
        Restore.objects.filter(adopted_at=None).update(adopted_at=timezone.now(), adopted_by=by.label)
        # The panel whose backup it is may have sent them.
        Delivery.objects.filter(state__in=UNSENT).update(is_repeat=True)
        publish_again()
        details = {"backup": restores[0].backup, "restored_at": value_as_json(restores[0].restored_at)}
        record(EventType.SYSTEM_RESTORED, "adopted", by=by, details=details)
    anchor_changed()
    publish()
    return True
