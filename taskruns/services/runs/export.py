"""Exports the runs of a board. The list of runs is fixed and recorded before the first byte is sent."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from django.db import transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.forms import BoardFilter
from taskruns.models import Team

from .matching import matching

_WIDTH = 16  # bytes of a UUID


@dataclass(frozen=True, slots=True)
class Export:
    """One export: the panel's ids of its runs, newest first, as bytes."""

    team: Team
    began: datetime
    ids: bytes = field(repr=False)

    @property
    def rows(self) -> int:
        return len(self.ids) // _WIDTH

    def in_chunks(self, size: int) -> Iterator[list[uuid.UUID]]:
        ids = (uuid.UUID(bytes=self.ids[at : at + _WIDTH]) for at in range(0, len(self.ids), _WIDTH))
        while chunk := list(islice(ids, size)):
            yield chunk


def export(team: Team, wanted: BoardFilter, *, by: Actor) -> Export:
    """Fix the list of runs and record the export. `csv_parts` then streams the file."""
    began = timezone.now()
    runs = matching(team, wanted, now=began).order_by("-sorted_at", "-pk")
    # Without a server-side cursor, the driver holds the answer in its own form: some 60 bytes a run.
    ids = b"".join(pk.bytes for pk in runs.values_list("pk", flat=True).iterator())
    chosen = Export(team, began, ids)
    details = {"format": "csv", "query": wanted.query().removeprefix("?"), "rows": chosen.rows}
    with transaction.atomic():
        record(EventType.RUN_EXPORT, "done", by=by, team=team, details=details)
    return chosen
