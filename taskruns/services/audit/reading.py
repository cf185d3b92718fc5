"""Reading rows of the log that somebody may have changed by hand."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import DatabaseError
from django.db.models import QuerySet

from taskruns.audit import CATALOGUE, EventType
from taskruns.audit.damaged import STRANGE_VALUES, as_stored, lenient
from taskruns.models import AuditEvent

from .row_stream import EVENT

_KINDS = {"seq": int, "at": datetime, "details": dict}


def readable(rows: "QuerySet[AuditEvent]") -> list[AuditEvent]:
    """The rows; one that is none of ours any more comes as it is stored, marked `is_damaged`."""
    try:
        found = list(rows)
    except (DatabaseError, *STRANGE_VALUES):
        # A value that cannot be read, or no database: the second try tells.
        with lenient():
            return [_one(pk) for pk in list(rows.values_list("pk", flat=True))]
    return [row if _is_ours(row) else _damaged(row.pk) for row in found]


def _one(pk: int) -> AuditEvent:
    try:
        row = AuditEvent.objects.get(pk=pk)
    except STRANGE_VALUES:
        return _damaged(pk)
    return row if _is_ours(row) else _damaged(pk)


def _is_ours(row: AuditEvent) -> bool:
    """Whether `record()` could have written such a row: kinds of values only, its hash tells the rest."""
    values = {name: getattr(row, name) for name in EVENT}
    try:
        json.dumps(values, ensure_ascii=False, default=_other).encode()
        outcomes = CATALOGUE[EventType(row.event)]
    except (ValueError, TypeError, RecursionError):
        return False
    kinds = {name: type(values[name]) for name in _KINDS}
    return kinds == _KINDS and row.outcome in outcomes


def _other(value: object) -> str:
    """What JSON does not know and a row may hold."""
    if isinstance(value, datetime | UUID):
        return str(value)
    raise TypeError


def _damaged(pk: int) -> AuditEvent:
    stored: dict[str, Any] = dict(zip(EVENT, as_stored(AuditEvent, pk, EVENT), strict=True))
    row = AuditEvent.objects.only("pk").get(pk=pk)
    for name, value in stored.items():
        setattr(row, name, value)
    row.is_damaged = True
    return row
