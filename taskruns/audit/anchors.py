"""Anchors: signed statements of the newest row of a chain.

Kept in their own append-only table, written to the log stream, and appended to AUDIT_ANCHOR_FILE if that is set: a copy
outside the database is what catches a cut tail, or a chain recomputed by someone who owns the database. What the file
did not take stays noted in the database and is appended later.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain, AuditEvent

from .raw_rows import UNREADABLE_VALUE, tolerant_text, with_number
from .row_json import value_as_json
from .signing_keys import sign, signing_key_id

log = structlog.get_logger(__name__)

EVERY = 1_000  # rows of one chain at most between two anchors, besides those of the clock
# The clock looks each minute, so no row is five minutes old without an anchor.
DUE_AFTER = timedelta(minutes=4)
_COLUMNS = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
_AT_ONCE = 500  # lines


def anchor_moved(*, due_after: timedelta = timedelta(0)) -> int:
    """Anchor the newest row of every chain whose oldest row without an anchor is so old. The number of anchors made."""
    made = 0
    for chain in _moved(due_after):
        try:
            made += anchor_chain(chain)
        except (DatabaseError, *UNREADABLE_VALUE):  # somebody changed rows by hand: the others are anchored anyhow
            log.exception("chain_not_anchored", chain=ascii(chain))
    return made


def _moved(due_after: timedelta) -> list[str]:
    last = with_number(AuditAnchor.objects.filter(chain=OuterRef("chain"))).order_by("-seq").values("seq")[:1]
    with tolerant_text():
        heads = AuditChain.objects.annotate(anchored=Subquery(last)).values_list("chain", "seq", "anchored")
        moved = [(chain, anchored or 0) for chain, seq, anchored in heads if _is_behind(anchored or 0, seq)]
    now = timezone.now()
    return [chain for chain, anchored in moved if not due_after or _is_due(chain, anchored, now, due_after)]


def _is_behind(anchored: int, seq: object) -> bool:
    return type(seq) is not int or seq > anchored


def _is_due(chain: str, anchored: int, now: Any, due_after: timedelta) -> bool:
    """Also for a time to come, which a clock that was set back leaves behind, and for a row that cannot be read."""
    oldest = AuditEvent.objects.filter(chain=chain, seq__gt=anchored).order_by("seq").values_list("at", flat=True)
    try:
        at = oldest.first()
        return at is not None and not now - due_after < at <= now
    except (DatabaseError, *UNREADABLE_VALUE):
        return True


def anchor_chain(chain: str) -> bool:
    """Anchor the chain's newest row. False if there is none, or it is anchored already."""
    with transaction.atomic():
        rows = with_number(AuditEvent.objects.filter(chain=chain)).only("chain", "seq", "hash")
        newest = rows.order_by("-seq").first()
        return newest is not None and anchor_row(newest)


def anchor_row(row: AuditEvent) -> bool:
    """Sign this row's place and hash, in the transaction at hand; published when that is committed."""
    anchor = AuditAnchor(chain=row.chain, seq=row.seq, hash=row.hash, signed_at=timezone.now(), key_id=signing_key_id())
    known = AuditAnchor.objects.filter(chain=row.chain, seq=row.seq, key_id=anchor.key_id)
    # Two workers may come here at once: the chain's lock lets the second see the first one's anchor.
    AuditChain.objects.select_for_update().filter(chain=row.chain).only("chain").first()
    if known.exists():
        return False
    anchor.signature = sign({name: value_as_json(getattr(anchor, name)) for name in _COLUMNS if name != "signature"})
    anchor.save(force_insert=True)
    if settings.AUDIT_ANCHOR_FILE:
        AnchorToPublish.objects.create(anchor=anchor)
    # robust: the act that was recorded is done, whatever becomes of the copy.
    transaction.on_commit(lambda: _published(anchor), robust=True)
    return True


def _published(anchor: AuditAnchor) -> None:
    log.info("audit_anchor", **_as_json(anchor))
    publish()


def publish() -> int:
    """Append the anchors that AUDIT_ANCHOR_FILE does not have yet. The number of lines written.

    A crash may write one twice: a reader takes two copies for one.
    """
    if not settings.AUDIT_ANCHOR_FILE or not AnchorToPublish.objects.exists():
        return 0
    try:
        with Path(settings.AUDIT_ANCHOR_FILE).open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return sum(_append(file, waiting) for waiting in _waiting())
    except (OSError, *UNREADABLE_VALUE):
        # They are in the database and in the log stream, and the next minute tries again.
        log.exception("audit_anchor_file_not_written")
        return 0


def _waiting() -> Iterator[list[AnchorToPublish]]:
    """Some at a time; who has read them takes them off the list."""
    rows = AnchorToPublish.objects.select_related("anchor").order_by("pk")
    while some := list(rows[:_AT_ONCE]):
        yield some


def _append(file: Any, waiting: list[AnchorToPublish]) -> int:
    lines = "".join(json.dumps(_as_json(row.anchor), sort_keys=True) + "\n" for row in waiting).encode()
    file.write(lines if _ends_whole(file) else b"\n" + lines)
    file.flush()
    os.fsync(file.fileno())
    AnchorToPublish.objects.filter(pk__in=[row.pk for row in waiting]).delete()
    return len(waiting)


def _ends_whole(file: Any) -> bool:
    """False behind a line that a full disk or a crash has torn."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _as_json(anchor: AuditAnchor) -> dict[str, Any]:
    return {name: value_as_json(getattr(anchor, name)) for name in _COLUMNS}
