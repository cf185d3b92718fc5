"""Taking a chain away: as JSON lines that can be checked, or as a table for people.

Recorded in the chain that is read before the first line is given. Streams: memory does not grow with the log.
"""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_moved
from taskruns.audit.row_json import plain
from taskruns.audit.signing_keys import public_keys
from taskruns.forms import AuditFilter
from taskruns.models import AuditAnchor, AuditEvent, Team
from taskruns.services.spreadsheet import csv_line, defused

from .matching import matching
from .row_stream import ANCHOR, EVENT, in_steps

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Export:
    """One export: its rows in order of their number, up to the row that tells of the export itself."""

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
        "exported_at": plain(timezone.now()),
        "exported_by": by.label,
        "public_keys": {name: b64encode(raw).decode() for name, raw in public_keys().items()},
    }


def jsonl_lines(wanted: Export) -> Iterator[str]:
    yield _line({"manifest": wanted.manifest})
    for event in in_steps(wanted.rows, EVENT):
        yield _line({"event": event})
    for anchor in in_steps(wanted.anchors, ANCHOR):
        yield _line({"anchor": anchor})


def _line(value: dict[str, Any]) -> str:
    """Half a character, which only a changed row can hold, is spelled as JSON spells it."""
    return _encodable(_ENCODER.encode(value)) + "\n"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def csv_lines(wanted: Export) -> Iterator[str]:
    """For people: the same columns in the order of the seal; times in UTC."""
    yield csv_line(EVENT)
    for event in in_steps(wanted.rows, EVENT):
        yield csv_line([_cell(value) for value in event.values()])


def _cell(value: Any) -> str:
    text = "" if value is None else json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
    return _encodable(defused(text))
