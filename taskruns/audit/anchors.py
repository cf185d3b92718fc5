"""Anchors: signed statements of the newest row of a chain.

Stored in their own append-only table, written to the process log, and appended to AUDIT_ANCHOR_FILE if that is set.
Only a copy outside the database reveals a truncated chain, or one recomputed by someone who controls the database.
Anchors that could not be appended to the file stay queued in the database and are appended later.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, transaction
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain, AuditEvent

from .raw_rows import UNREADABLE_VALUE, tolerant_text, with_number
from .row_json import value_as_json
from .signing_keys import sign, signing_key_id

log = structlog.get_logger(__name__)

ANCHOR_EVERY = 1_000  # at most this many rows of one chain between two anchors, whatever the clock does
# The clock checks every minute, so every row has an anchor within five minutes.
DUE_AFTER = timedelta(minutes=4)
_COLUMNS = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
_CHUNK = 500  # lines
# In the cache, which all processes share: since when no process could write the file. The worker tries each minute and
# renews the entry, which ends by itself if the file is no longer wanted.
_UNWRITTEN = "audit-anchors-unwritten-since"
_UNWRITTEN_FOR = timedelta(minutes=5)


def anchor_changed(*, due_after: timedelta = timedelta(0)) -> int:
    """Anchor each chain that has an unanchored row at least `due_after` old. Returns how many anchors were made."""
    made = 0
    for chain in _changed(due_after):
        try:
            made += anchor_chain(chain)
        except (DatabaseError, *UNREADABLE_VALUE):  # rows changed by hand: still anchor the other chains
            log.exception("chain_not_anchored", chain=ascii(chain))
    return made


def _changed(due_after: timedelta) -> list[str]:
    last = with_number(AuditAnchor.objects.filter(chain=OuterRef("chain"))).order_by("-seq").values("seq")[:1]
    with tolerant_text():
        heads = AuditChain.objects.annotate(anchored=Subquery(last)).values_list("chain", "seq", "anchored")
        changed = [(chain, anchored or 0) for chain, seq, anchored in heads if _is_behind(anchored or 0, seq)]
    now = timezone.now()
    return [chain for chain, anchored in changed if not due_after or _is_due(chain, anchored, now, due_after)]


def _is_behind(anchored: int, seq: object) -> bool:
    return type(seq) is not int or seq > anchored


def _is_due(chain: str, anchored: int, now: Any, due_after: timedelta) -> bool:
    """Also true for an unreadable row, and for a time in the future, left by a clock that was set back."""
    oldest = AuditEvent.objects.filter(chain=chain, seq__gt=anchored).order_by("seq").values_list("at", flat=True)
    try:
        at = oldest.first()
        return at is not None and not now - due_after < at <= now
    except (DatabaseError, *UNREADABLE_VALUE):
        return True


def anchor_chain(chain: str) -> bool:
    """Anchor the chain's newest row. False if there is no row or it already has an anchor."""
    with transaction.atomic():
        rows = with_number(AuditEvent.objects.filter(chain=chain)).only("chain", "seq", "hash")
        newest = rows.order_by("-seq").first()
        return newest is not None and anchor_row(newest)


def anchor_row(row: AuditEvent) -> bool:
    """Sign this row's number and hash in the current transaction. Published after commit."""
    anchor = AuditAnchor(chain=row.chain, seq=row.seq, hash=row.hash, signed_at=timezone.now(), key_id=signing_key_id())
    known = AuditAnchor.objects.filter(chain=row.chain, seq=row.seq, key_id=anchor.key_id)
    # Two workers may get here at once. The chain's lock makes the second one see the first one's anchor.
    AuditChain.objects.select_for_update().filter(chain=row.chain).only("chain").first()
    if known.exists():
        return False
    anchor.signature = sign({name: value_as_json(getattr(anchor, name)) for name in _COLUMNS if name != "signature"})
    anchor.save(force_insert=True)
    if settings.AUDIT_ANCHOR_FILE:
        AnchorToPublish.objects.create(anchor=anchor)
    # robust: the recorded change is committed, so a failure to publish must not raise.
    transaction.on_commit(lambda: _published(anchor), robust=True)
    return True


def _published(anchor: AuditAnchor) -> None:
    log.info("audit_anchor", **_as_json(anchor))
    publish()


def publish() -> int:
    """Append the queued anchors to AUDIT_ANCHOR_FILE. Returns how many lines were written.

    After a crash a line may be written twice; readers ignore duplicates. The file is opened even if nothing is queued,
    so that a file that cannot be written is noticed before it is needed.
    """
    if not settings.AUDIT_ANCHOR_FILE:
        return 0
    try:
        with Path(settings.AUDIT_ANCHOR_FILE).open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            written = sum(_append(file, waiting) for waiting in _waiting())
    except (OSError, *UNREADABLE_VALUE):
        # The anchors stay queued, and the clock retries in the next minute.
        log.exception("audit_anchor_file_not_written")
        since = cache.get(_UNWRITTEN) or value_as_json(timezone.now())
        cache.set(_UNWRITTEN, since, _UNWRITTEN_FOR.total_seconds())
        return 0
    if cache.get(_UNWRITTEN):
        cache.delete(_UNWRITTEN)
    return written


def unwritten_since() -> datetime | None:
    """When AUDIT_ANCHOR_FILE could not be written for the first time, if it still cannot."""
    since = cache.get(_UNWRITTEN) if settings.AUDIT_ANCHOR_FILE else None
    return datetime.fromisoformat(since) if since else None


def check_anchor_file() -> bool:
    """Whether this process can append to AUDIT_ANCHOR_FILE. If not, say so in the log as soon as it starts."""
    try:
        if settings.AUDIT_ANCHOR_FILE:
            with Path(settings.AUDIT_ANCHOR_FILE).open("ab"):
                pass
    except OSError:
        log.exception("audit_anchor_file_not_writable")
        return False
    return True


def _waiting() -> Iterator[list[AnchorToPublish]]:
    """The queue in chunks. The caller deletes each chunk before it asks for the next one."""
    rows = AnchorToPublish.objects.select_related("anchor").order_by("pk")
    while chunk := list(rows[:_CHUNK]):
        yield chunk


def _append(file: Any, waiting: list[AnchorToPublish]) -> int:
    lines = "".join(json.dumps(_as_json(row.anchor), sort_keys=True) + "\n" for row in waiting).encode()
    file.write(lines if _ends_with_newline(file) else b"\n" + lines)
    file.flush()
    os.fsync(file.fileno())
    AnchorToPublish.objects.filter(pk__in=[row.pk for row in waiting]).delete()
    return len(waiting)


def _ends_with_newline(file: Any) -> bool:
    """False after a partial line left by a full disk or a crash."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _as_json(anchor: AuditAnchor) -> dict[str, Any]:
    return {name: value_as_json(getattr(anchor, name)) for name in _COLUMNS}
