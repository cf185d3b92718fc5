"""Exporting the log, and recording who reads or exports it, in the chain that is read.

An export is JSON Lines, which can be verified, or CSV for people. It is recorded before its first line is sent, and
streamed, so memory use does not grow with the log.
"""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed
from taskruns.audit.record import chain_of
from taskruns.audit.row_json import value_as_json
from taskruns.audit.signing_keys import public_keys
from taskruns.forms import AuditFilter
from taskruns.models import AuditAnchor, AuditEvent, AuditReading, Team
from taskruns.services.spreadsheet import csv_line, defused

from .matching import matching
from .row_stream import ANCHOR, EVENT, stream_values

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
    if known.filter(recorded_at__gt=now - READING_COUNTS_FOR).exists():
        return
    with transaction.atomic():
        # If two pages are opened at once, only one creates or updates the AuditReading and records the event.
        if known.filter(recorded_at__lte=now - READING_COUNTS_FOR).update(recorded_at=now) or _first(mine, now):
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


def export(team: Team | None, *, by: Actor, kind: str, wanted: AuditFilter | None = None) -> Export:
    """Export a team's chain, or the site's for None. A filtered export can be verified only row by row."""
    filtered = wanted is not None and wanted.is_set
    with transaction.atomic():
        details = {"format": kind, "filtered": filtered}
        mark = record(EventType.AUDIT_EXPORT, "done", by=by, team=team, details=details)
    anchor_changed()
    chain = AuditEvent.objects.filter(chain=mark.chain, seq__lte=mark.seq)
    rows = matching(chain, wanted) if wanted is not None else chain
    anchors = AuditAnchor.objects.filter(chain=mark.chain, seq__lte=mark.seq)
    return Export(_manifest(mark, rows, by=by, filtered=filtered), rows, anchors)


def _manifest(mark: AuditEvent, rows: QuerySet[AuditEvent], *, by: Actor, filtered: bool) -> dict[str, Any]:
    first = rows.order_by("seq").values_list("seq", flat=True).first() if filtered else 1
    last = rows.order_by("-seq").values_list("seq", flat=True).first() if filtered else mark.seq
    return {
        "chain": mark.chain,
        "first_seq": first,
        "last_seq": last,
        "filtered": filtered,
        "exported_at": value_as_json(timezone.now()),
        "exported_by": by.label,
        "public_keys": {name: b64encode(raw).decode() for name, raw in public_keys().items()},
    }


def jsonl_lines(wanted: Export) -> Iterator[str]:
    yield _line({"manifest": wanted.manifest})
    for event in stream_values(wanted.rows, EVENT):
        yield _line({"event": event})
    for anchor in stream_values(wanted.anchors, ANCHOR):
        yield _line({"anchor": anchor})


def _line(value: dict[str, Any]) -> str:
    """Encode as JSON. A lone surrogate, which only a row changed by hand can hold, is escaped."""
    return _encodable(_ENCODER.encode(value)) + "\n"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def csv_lines(wanted: Export) -> Iterator[str]:
    """CSV for people: the same columns in the same order, times in UTC."""
    yield csv_line(EVENT)
    for event in stream_values(wanted.rows, EVENT):
        yield csv_line([_cell(value) for value in event.values()])


def _cell(value: Any) -> str:
    text = "" if value is None else json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
    return _encodable(defused(text))
