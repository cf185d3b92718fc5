"""Anchors: signed statements of the newest row of a chain.

Kept in their own append-only table, written to the log stream, and appended to AUDIT_ANCHOR_FILE if that is set: a copy
outside the database is what catches a cut tail, or a chain recomputed by someone who owns the database.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, OuterRef, Q, Subquery
from django.utils import timezone

from taskruns.models import AuditAnchor, AuditChain, AuditEvent

from .keys import sign, signing_key_id
from .seal import plain

log = structlog.get_logger(__name__)

EVERY = 1_000  # rows of one chain at most between two anchors, besides those of the clock
_COLUMNS = ("chain", "seq", "hash", "signed_at", "key_id", "signature")


def anchor_moved() -> int:
    """Anchor the newest row of every chain that has moved since its last anchor. The number of anchors made."""
    last = AuditAnchor.objects.filter(chain=OuterRef("chain")).order_by("-seq").values("seq")[:1]
    heads = AuditChain.objects.annotate(anchored=Subquery(last))
    moved = heads.filter(Q(anchored=None) | Q(seq__gt=F("anchored")), seq__gt=0).values_list("chain", flat=True)
    return sum(anchor_chain(chain) for chain in list(moved))


def anchor_chain(chain: str) -> bool:
    """Anchor the chain's newest row. False if there is none, or it is anchored already."""
    with transaction.atomic():
        newest = AuditEvent.objects.filter(chain=chain).order_by("-seq").first()
        return newest is not None and anchor_row(newest)


def anchor_row(row: AuditEvent) -> bool:
    """Sign this row's place and hash, in the transaction at hand; published when that is committed."""
    anchor = AuditAnchor(chain=row.chain, seq=row.seq, hash=row.hash, signed_at=timezone.now(), key_id=signing_key_id())
    known = AuditAnchor.objects.filter(chain=row.chain, seq=row.seq, key_id=anchor.key_id)
    # Two workers may come here at once: the chain's lock lets the second see the first one's anchor.
    AuditChain.objects.select_for_update().filter(chain=row.chain).first()
    if known.exists():
        return False
    anchor.signature = sign({name: plain(getattr(anchor, name)) for name in _COLUMNS if name != "signature"})
    anchor.save(force_insert=True)
    transaction.on_commit(lambda: _publish({name: plain(getattr(anchor, name)) for name in _COLUMNS}))
    return True


def _publish(anchor: dict[str, Any]) -> None:
    log.info("audit_anchor", **anchor)
    if not settings.AUDIT_ANCHOR_FILE:
        return
    try:
        _append(Path(settings.AUDIT_ANCHOR_FILE), json.dumps(anchor, sort_keys=True) + "\n")
    except OSError:
        # The anchor itself is in the database and in the log stream; a later one covers the same rows.
        log.exception("audit_anchor_file_not_written")


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
