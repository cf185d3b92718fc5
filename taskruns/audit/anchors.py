"""Anchors: signed statements of the newest row of a chain.

Stored in their own append-only table, written to the process log, and appended to AUDIT_ANCHOR_FILE if that is set.
Only a copy outside the database reveals a truncated chain, or one recomputed by someone who controls the database.
Anchors that could not be appended to the file stay queued in the database and are appended later.

Someone with write access to the database may add anchors, or change the queue. So only anchors that this panel signed
count, and only they reach the file, because auditors trust the keys in it. A new anchor is appended from memory, even
if it was deleted from the queue.

A panel that was restored and not adopted publishes none: it may be a drill beside the real panel. Its anchors wait.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, transaction
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain, AuditEvent
from taskruns.models.restores import is_resting
from taskruns.verifier import signature_holds

from .anchor_lead import AnchorLead
from .raw_rows import UNREADABLE_VALUE, tolerant_text, with_number
from .row_json import value_as_json
from .signing_keys import note_use, public_keys, sign, signing_key_id, signing_key_problem

log = structlog.get_logger(__name__)

ANCHOR_EVERY = 1_000  # at most this many rows of one chain between two anchors, whatever the clock does
# The clock checks every minute, so every row has an anchor within five minutes.
DUE_AFTER = timedelta(minutes=4)
_COLUMNS = ("chain", "seq", "hash", "signed_at", "key_id", "signature")
_CHUNK = 500  # lines
_TRIED = 10  # the newest anchors of a chain, among which one of ours is looked for
_TAIL = 2**16  # bytes at the end of the file, searched for a line that another process has just written
# The cache entry that tells all processes since when the file cannot be written. The worker tries every minute and
# renews the entry. It expires if the setting is removed.
_UNWRITTEN = "audit-anchors-unwritten-since"
_UNWRITTEN_FOR = timedelta(minutes=5)
_lead = AnchorLead()


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
    changed = [(chain, anchored) for chain, seq, anchored in _heads() if _is_behind(anchored, seq)]
    now = timezone.now()
    return [chain for chain, anchored in changed if not due_after or _is_due(chain, anchored, now, due_after)]


def _heads() -> list[tuple[str, object, int]]:
    """Each chain with its head's number and the number of its newest row that has an anchor of ours."""
    newest = with_number(AuditAnchor.objects.filter(chain=OuterRef("chain"))).order_by("-seq", "-pk")
    columns = {f"anchor_{name}": Subquery(newest.values(name)[:1]) for name in _COLUMNS if name != "chain"}
    try:
        with tolerant_text():
            found = list(AuditChain.objects.annotate(**columns).values("chain", *columns, "seq"))
    except UNREADABLE_VALUE:
        with tolerant_text():
            found = list(AuditChain.objects.values("chain", "seq"))
    return [(row["chain"], row["seq"], _newest_of_ours(row)) for row in found]


def _newest_of_ours(head: dict[str, Any]) -> int:
    if "anchor_seq" in head and head["anchor_seq"] is None:
        return 0
    newest = {name: value_as_json(head.get(f"anchor_{name}")) for name in _COLUMNS} | {"chain": head["chain"]}
    return int(newest["seq"]) if signature_holds(newest, public_keys()) else _anchored(head["chain"])


def _anchored(chain: str) -> int:
    """The number of the newest row that has an anchor of ours. Planted anchors do not count."""
    newest = _newest_anchor(chain)
    return newest.seq if newest is not None else 0


def _newest_anchor(chain: str) -> AuditAnchor | None:
    newest = with_number(AuditAnchor.objects.filter(chain=chain)).order_by("-seq", "-pk")
    keys = list(newest.values_list("pk", flat=True)[:_TRIED])
    return next((anchor for anchor in _readable(keys) if _is_ours(anchor)), None)


def _readable(keys: list[int]) -> Iterator[AuditAnchor]:
    """The anchors with these primary keys, in this order, without those that Django cannot read."""
    for key in keys:
        try:
            with tolerant_text():
                found = AuditAnchor.objects.filter(pk=key).first()
        except UNREADABLE_VALUE:
            continue
        if found is not None:
            yield found


def _is_ours(anchor: AuditAnchor) -> bool:
    """Whether this panel signed the anchor, with its current key or an older one."""
    return signature_holds(_as_json(anchor), public_keys())


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
    """Sign this row's number and hash in the current transaction. Published after commit.

    False if it has an anchor, or if this process has a signing key that does not continue the log.
    """
    if problem := signing_key_problem():
        log.error("audit_not_anchored", problem=problem)
        return False
    anchor = AuditAnchor(chain=row.chain, seq=row.seq, hash=row.hash, signed_at=timezone.now(), key_id=signing_key_id())
    known = AuditAnchor.objects.filter(chain=row.chain, seq=row.seq, key_id=anchor.key_id).values_list("pk", flat=True)
    # Two workers may get here at once. The chain's lock makes the second one see the first one's anchor.
    AuditChain.objects.select_for_update(no_key=True).filter(chain=row.chain).only("chain").first()
    planted = list(known)
    if any(map(_is_ours, _readable(planted))):
        return False
    anchor.signature = sign({name: value_as_json(getattr(anchor, name)) for name in _COLUMNS if name != "signature"})
    if planted:  # the table has no place for this anchor, but the file has
        log.error("audit_anchor_planted", chain=ascii(row.chain), seq=row.seq)
    else:
        anchor.save(force_insert=True)
        note_use()
        if settings.AUDIT_ANCHOR_FILE:
            AnchorToPublish.objects.create(anchor=anchor)
    # robust: the recorded change is committed, so a failure to publish must not raise.
    transaction.on_commit(lambda: _published(anchor), robust=True)
    return True


def _published(anchor: AuditAnchor) -> None:
    if is_resting():
        return
    log.info("audit_anchor", **_as_json(anchor))
    publish(anchor)


def publish_again() -> None:
    """In the transaction that adopts a restored panel: log the newest anchor of each chain after commit, and queue it.

    Those that were made while the panel rested were not logged, nor queued by a process without AUDIT_ANCHOR_FILE.
    """
    with tolerant_text():
        chains = list(AuditChain.objects.order_by("chain").values_list("chain", flat=True))
    for chain in chains:
        newest = _newest_anchor(chain)
        if newest is None:
            continue
        if settings.AUDIT_ANCHOR_FILE:
            AnchorToPublish.objects.get_or_create(anchor=newest)
        transaction.on_commit(partial(log.info, "audit_anchor", **_as_json(newest)), robust=True)


def publish(new: AuditAnchor | None = None) -> int:
    """Append the queued anchors to AUDIT_ANCHOR_FILE, and `new` if it was not queued. Returns how many lines were
    written.

    After a crash a line may be written twice; readers ignore duplicates. The file is opened even if nothing is queued,
    so that a file that cannot be written is noticed before it is needed.
    """
    if not settings.AUDIT_ANCHOR_FILE or is_resting():
        return 0
    try:
        with Path(settings.AUDIT_ANCHOR_FILE).open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if problem := _lead.problem(file, settings.AUDIT_ANCHOR_FILE):
                log.error("audit_anchors_not_published", problem=problem)
                _note_unwritten()
                return 0
            written = sum(_append_queued(file, waiting) for waiting in _waiting())
            if new is not None and not _is_at_end(file, new):
                written += _append(file, [new])
    except (OSError, *UNREADABLE_VALUE):
        # The anchors stay queued, and the clock retries in the next minute.
        log.exception("audit_anchor_file_not_written")
        _note_unwritten()
        return 0
    if cache.get(_UNWRITTEN):
        cache.delete(_UNWRITTEN)
    return written


def _note_unwritten() -> None:
    since = cache.get(_UNWRITTEN) or value_as_json(timezone.now())
    cache.set(_UNWRITTEN, since, _UNWRITTEN_FOR.total_seconds())


def lead_problem() -> str:
    """A sentence if AUDIT_ANCHOR_FILE names rows that the database does not have, or "". May raise OSError."""
    path = Path(settings.AUDIT_ANCHOR_FILE)
    if not settings.AUDIT_ANCHOR_FILE or not path.exists():
        return ""
    with path.open("rb") as file:
        return AnchorLead().problem(file, settings.AUDIT_ANCHOR_FILE)


def unwritten_since() -> datetime | None:
    """Since when AUDIT_ANCHOR_FILE cannot be written. None if it can."""
    since = cache.get(_UNWRITTEN) if settings.AUDIT_ANCHOR_FILE else None
    try:
        return datetime.fromisoformat(since) if since else None
    except (TypeError, ValueError):  # written by hand: it does not say since when
        return timezone.now()


def check_anchor_file() -> bool:
    """Whether this process can append to AUDIT_ANCHOR_FILE. If not, say so in the log as soon as it starts."""
    try:
        if settings.AUDIT_ANCHOR_FILE:
            with Path(settings.AUDIT_ANCHOR_FILE).open("ab"):
                pass
        if not is_resting() and (problem := lead_problem()):
            log.error("audit_anchors_not_published", problem=problem)
            return False
    except OSError:
        log.exception("audit_anchor_file_not_writable")
        return False
    except (DatabaseError, *UNREADABLE_VALUE):
        log.warning("audit_anchor_file_not_compared", exc_info=True)
    return True


def _waiting() -> Iterator[list[int]]:
    """The primary keys of the queued anchors in chunks. The caller deletes each before it asks for the next one."""
    keys = AnchorToPublish.objects.order_by("pk").values_list("pk", flat=True)
    while chunk := list(keys[:_CHUNK]):
        yield chunk


def _append_queued(file: Any, waiting: list[int]) -> int:
    ours = [anchor for anchor in _readable(waiting) if _is_ours(anchor)]
    if len(ours) < len(waiting):
        log.error("audit_anchors_not_ours", left_out=len(waiting) - len(ours))
    written = _append(file, ours)
    AnchorToPublish.objects.filter(pk__in=waiting).delete()
    return written


def _append(file: Any, anchors: Iterable[AuditAnchor]) -> int:
    lines = [_line(anchor) for anchor in anchors]
    text = b"".join(lines)
    file.write(text if not text or _ends_with_newline(file) else b"\n" + text)
    file.flush()
    os.fsync(file.fileno())
    return len(lines)


def _line(anchor: AuditAnchor) -> bytes:
    return json.dumps(_as_json(anchor), sort_keys=True).encode() + b"\n"


def _is_at_end(file: Any, anchor: AuditAnchor) -> bool:
    """Whether the anchor is among the last lines. Whoever wrote it held the same lock."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    return _line(anchor) in file.read()


def _ends_with_newline(file: Any) -> bool:
    """False after a partial line left by a full disk or a crash."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _as_json(anchor: AuditAnchor) -> dict[str, Any]:
    return {name: value_as_json(getattr(anchor, name)) for name in _COLUMNS}
