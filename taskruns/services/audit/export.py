"""Reading and exporting the log are acts themselves, recorded in the chain that is read.

An export, as JSON lines that can be verified or as a table for people, is recorded before its first line leaves. It
streams: memory does not grow with the log.
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
from taskruns.audit.anchors import anchor_moved
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
    """Recorded once per person, chain and hour.

    The page of all teams (None) is a reading of the site's log: whoever sees it may read every chain, so one row there
    is enough, and no team's log fills up with the readings of those who look after all.
    """
    mine = {"actor_id": by.id, "chain": chain_of(team.pk if team else None)}
    now = timezone.now()
    known = AuditReading.objects.filter(**mine)
    if known.filter(recorded_at__gt=now - READING_COUNTS_FOR).exists():
        return
    with transaction.atomic():
        # Of two pages opened at once, one makes or moves the mark, and records.
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
    """Its rows in order of their number, up to the row that records the export itself."""

    manifest: dict[str, Any]
    rows: QuerySet[AuditEvent]
    anchors: QuerySet[AuditAnchor]


def export(team: Team | None, *, by: Actor, kind: str, wanted: AuditFilter | None = None) -> Export:
    """Export the chain of a team, or the site's for None; with a filter only single rows of it can be checked."""
    filtered = wanted is not None and wanted.is_set
    with transaction.atomic():
        details = {"format": kind, "filtered": filtered}
        mark = record(EventType.AUDIT_EXPORT, "done", by=by, team=team, details=details)
    anchor_moved()
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
    """Half a character, which only a changed row can hold, is escaped as JSON escapes it."""
    return _encodable(_ENCODER.encode(value)) + "\n"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def csv_lines(wanted: Export) -> Iterator[str]:
    """For people: the same columns in the same order; times in UTC."""
    yield csv_line(EVENT)
    for event in stream_values(wanted.rows, EVENT):
        yield csv_line([_cell(value) for value in event.values()])


def _cell(value: Any) -> str:
    text = "" if value is None else json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
    return _encodable(defused(text))
