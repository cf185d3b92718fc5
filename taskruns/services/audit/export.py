"""Exporting the log, and recording who reads or exports it, in the chain that is read.

An export is JSON Lines, which can be verified, or CSV for people. It is recorded before its first line is sent, and
streamed, so memory use does not grow with the log. `taskruns/verifier.py` explains the lines of JSON Lines. The last is
the trailer, which signs all others: an interrupted download does not pass for a complete one.
"""

import hashlib
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed, anchor_row
from taskruns.audit.raw_rows import with_number
from taskruns.audit.record import chain_of
from taskruns.audit.row_json import row_as_json, value_as_json
from taskruns.audit.signing_keys import public_keys, sign, signing_key_id, signing_key_problem
from taskruns.forms import AuditFilter
from taskruns.models import AuditAnchor, AuditEvent, AuditReading, Team
from taskruns.services.spreadsheet import BOM, csv_line, defused
from taskruns.services.user_errors import UserError
from taskruns.verifier import lost_rows

from .matching import matching
from .rows import ANCHOR, EVENT, stream_values

FORMAT = 2
READING_COUNTS_FOR = timedelta(hours=1)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def record_reading(team: Team | None, *, by: Actor) -> None:
    """Record that the person read the log, once per person, chain and hour.

    The page of all teams (None) is recorded in the site's chain only. Its readers may read every chain anyway, and the
    teams' logs do not fill up with visits of auditors.
    """
    mine = {"actor_id": by.id, "chain": chain_of(team.pk if team else None)}
    now = timezone.now()
    known = AuditReading.objects.filter(**mine)
    # After the clock was set back, a time in the future must not keep readings out of the log for long.
    lately = Q(recorded_at__gt=now - READING_COUNTS_FOR, recorded_at__lte=now + READING_COUNTS_FOR)
    if known.filter(lately).exists():
        return
    with transaction.atomic():
        # If two pages are opened at once, only one creates or updates the AuditReading and records the event.
        if known.exclude(lately).update(recorded_at=now) or _first(mine, now):
            record(EventType.AUDIT_READ, "done", by=by, team=team)


def _first(mine: dict[str, str], now: datetime) -> bool:
    try:
        with transaction.atomic():
            AuditReading.objects.create(**mine, recorded_at=now)
    except IntegrityError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Export:
    """The rows by number, up to the row that records the export itself."""

    manifest: dict[str, Any]
    rows: QuerySet[AuditEvent]
    anchors: QuerySet[AuditAnchor]


def export(team: Team | None, *, by: Actor, kind: str, wanted: AuditFilter | None = None, after: int = 0) -> Export:
    """Export a team's chain, or the site's for None. A filtered export has single rows, which only the trailer proves.

    `after`: continue an earlier export, whose last row has this number. The last row is the one that records this
    export. It is anchored in its own transaction: if that fails, there is no export.
    """
    filtered = wanted is not None and wanted.is_set
    with transaction.atomic():
        prev_hash = _hash_of(team, after) if after else None
        details = {"format": kind, "filtered": filtered}
        mark = record(EventType.AUDIT_EXPORT, "done", by=by, team=team, details=details)
        # Every thousandth row has its anchor already.
        if not anchor_row(mark) and (problem := signing_key_problem()):
            raise UserError(problem)
        exported_at = timezone.now()  # under the chain's lock: every anchor of a later row is signed later
    anchor_changed()
    bounds = {"chain": mark.chain, "seq__gt": after, "seq__lte": mark.seq}
    chain = AuditEvent.objects.filter(**bounds)
    rows = matching(chain, wanted) if wanted is not None else chain
    first, last = _ends(rows) if filtered else (after + 1, mark.seq)
    manifest = {
        "format": FORMAT,
        "chain": mark.chain,
        "first_seq": first,
        "last_seq": last,
        "filtered": filtered,
        "exported_at": value_as_json(exported_at),
        "exported_by": by.label,
        "public_keys": {name: b64encode(raw).decode() for name, raw in public_keys().items()},
    }
    continues = {} if prev_hash is None else {"prev_hash": prev_hash}
    return Export(manifest | continues, rows, AuditAnchor.objects.filter(**bounds))


def _hash_of(team: Team | None, seq: int) -> str:
    """The hash of the row that a continued export follows."""
    row = AuditEvent.objects.filter(chain=chain_of(team.pk if team else None), seq=seq)
    found = row.values_list("hash", flat=True).first()
    if found is None:
        wanted = "Give the number of the last entry of the earlier export."
        raise UserError(f"This log has no entry {seq}. {_why_lost(team, seq) or wanted}")
    return found


def _why_lost(team: Team | None, seq: int) -> str:
    after = AuditEvent.objects.filter(chain=chain_of(team.pk if team else None), seq__gt=seq).order_by("seq").first()
    lost = lost_rows(row_as_json(after), public_keys()) if after is not None else None
    if lost is None:
        return ""
    return f"A restore lost entries {lost[0]} to {lost[1]}. Export the log from its beginning, and keep the old export."


def _ends(rows: QuerySet[AuditEvent]) -> tuple[int | None, int | None]:
    """The numbers of the first and the last row; None without rows."""
    numbers = with_number(rows).values_list("seq", flat=True)
    return numbers.order_by("seq").first(), numbers.order_by("-seq").first()


def jsonl_lines(wanted: Export) -> Iterator[str]:
    """The trailer's digest is over these lines in UTF-8, before any compression on the way."""
    digest, count = hashlib.sha256(), Counter[str]()
    for kind, value in _members(wanted):
        line = _line({kind: value})
        digest.update(line.encode())
        count[kind] += 1
        yield line
    trailer = {
        "events": count["event"],
        "anchors": count["anchor"],
        "digest": digest.hexdigest(),
        "key_id": signing_key_id(),
    }
    yield _line({"trailer": trailer | {"signature": sign(trailer, "export")}})


def _members(wanted: Export) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "manifest", wanted.manifest
    for event in stream_values(wanted.rows, EVENT):
        yield "event", event
    for anchor in stream_values(wanted.anchors, ANCHOR):
        yield "anchor", anchor


def _line(value: dict[str, Any]) -> str:
    """Encode as JSON. A lone surrogate, which only a row changed by hand can hold, is escaped."""
    return _encodable(_ENCODER.encode(value)) + "\n"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def csv_lines(wanted: Export) -> Iterator[str]:
    """CSV for people: the same columns in the same order, times in UTC."""
    yield BOM + csv_line(EVENT)
    for event in stream_values(wanted.rows, EVENT):
        yield csv_line([_cell(value) for value in event.values()])


def _cell(value: Any) -> str:
    text = "" if value is None else json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
    return _encodable(defused(text))
