"""Taking the runs of a board away as a table: all columns, newest first, in little memory.

Which rows these are is settled when the export begins (16 bytes a run are held), so that the file has as many as were
said, whatever ends meanwhile. They are then read in short questions: neither a copy of the table nor a transaction is
held while somebody takes the file away slowly. Recorded before the first byte is given.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.display.exports import COLUMNS, ExportPage, run_cells
from taskruns.display.saved_views import board_url, choices_of
from taskruns.display.spreadsheet import csv_line
from taskruns.forms import BoardFilter
from taskruns.models import Run, Team

from .board import latest_cancellations, matching
from .runs import arize_users

CHUNK = 500
# Not for the table, and much of it: what Arize sent as it was, and everything about a key but its name.
_KEY = ("ciphertext", "last4", "spaces", "recent_calls")
_LEFT_OUT = ("as_read", "task__as_read", *(f"task__credential__{name}" for name in _KEY))
_WIDTH = 16  # bytes of a UUID


@dataclass(frozen=True, slots=True)
class Export:
    """One export: the panel's ids of its runs, newest first, as bytes."""

    began: datetime
    ids: bytes = field(repr=False)

    @property
    def rows(self) -> int:
        return len(self.ids) // _WIDTH


def export_page(team: Team, wanted: BoardFilter) -> ExportPage:
    query = wanted.query()
    return ExportPage(
        team=team.name,
        slug=team.slug,
        rows=matching(team, wanted, now=timezone.now()).count(),
        choices=choices_of(query.removeprefix("?")),
        csv_url=reverse("board-export", args=[team.slug]) + query,
        board_url=board_url(team.slug, query.removeprefix("?")),
    )


def export(team: Team, wanted: BoardFilter, *, by: Actor) -> Export:
    """Settle which runs and record; `csv_parts` then gives the file."""
    began = timezone.now()
    runs = matching(team, wanted, now=began).order_by("-sorted_at", "-pk")
    ids = b"".join(pk.bytes for pk in runs.values_list("pk", flat=True).iterator())
    chosen = Export(began, ids)
    details = {"format": "csv", "query": wanted.query().removeprefix("?"), "rows": chosen.rows}
    with transaction.atomic():
        record(EventType.RUN_EXPORT, "done", by=by, team=team, details=details)
    return chosen


def csv_parts(chosen: Export) -> Iterator[str]:
    """The header, then some hundred lines at a time."""
    yield csv_line(COLUMNS)
    for runs in _in_steps(chosen.ids):
        last = latest_cancellations(runs)
        yield "".join(csv_line(run_cells(run, last=last.get(run.pk), creator=run.creator)) for run in runs)


def _in_steps(ids: bytes) -> Iterator[list[Run]]:
    step = CHUNK * _WIDTH
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        wanted = [uuid.UUID(bytes=part[at : at + _WIDTH]) for at in range(0, len(part), _WIDTH)]
        table = Run.objects.select_related("task__credential").defer(*_LEFT_OUT)
        found = arize_users.with_creators(table).in_bulk(wanted)
        # One that is past its time may have been deleted meanwhile.
        yield [found[pk] for pk in wanted if pk in found]
