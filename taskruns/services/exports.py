"""Taking the runs of a board away as a table: all columns, newest first, in constant memory.

The rows are those that were known when the export began. They are walked by their place (time, id) in short questions:
neither a copy of the table nor a transaction is held while somebody takes the file away slowly, and a run that ends
meanwhile keeps its place. Recorded before the first byte is given.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.display.exports import COLUMNS, ExportPage, run_cells
from taskruns.display.saved_views import board_url, choices_of
from taskruns.display.spreadsheet import csv_line
from taskruns.filters import BoardFilter
from taskruns.models import Run, Team

from .board import latest_cancellations, matching

CHUNK = 500
# Not for the table, and much of it: what Arize sent as it was, and everything about a key but its name.
_KEY = ("ciphertext", "last4", "spaces", "recent_calls")
_LEFT_OUT = ("as_read", "task__as_read", *(f"task__credential__{name}" for name in _KEY))
Place = tuple[datetime, uuid.UUID]


@dataclass(frozen=True, slots=True)
class Export:
    """One export: its runs are those first seen until `began`, and `rows` is how many they were then."""

    team: Team
    wanted: BoardFilter
    began: datetime
    rows: int


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
    """Count and record; `csv_parts` then gives the file."""
    began = timezone.now()
    chosen = Export(team, wanted, began, rows=_runs(team, wanted, began).count())
    details = {"format": "csv", "query": wanted.query().removeprefix("?"), "rows": chosen.rows}
    with transaction.atomic():
        record(EventType.RUN_EXPORT, "done", by=by, team=team, details=details)
    return chosen


def csv_parts(chosen: Export) -> Iterator[str]:
    """The header, then some hundred lines at a time."""
    yield csv_line(COLUMNS)
    for runs in _in_steps(_runs(chosen.team, chosen.wanted, chosen.began)):
        last = latest_cancellations(runs)
        yield "".join(csv_line(run_cells(run, last=last.get(run.pk))) for run in runs)


def _runs(team: Team, wanted: BoardFilter, began: datetime) -> QuerySet[Run]:
    return matching(team, wanted, now=began).filter(first_seen_at__lte=began)


def _in_steps(runs: QuerySet[Run]) -> Iterator[list[Run]]:
    """Newest first, active or not: a place by rank would change when a run ends, and the run come twice."""
    place: Place | None = None
    length = CHUNK
    while length == CHUNK:
        chunk = list(_below(runs, place)[:CHUNK])
        length = len(chunk)
        if chunk:
            place = _place(chunk[-1])
            yield chunk
        del chunk  # or two steps would be held at once


def _below(runs: QuerySet[Run], place: Place | None) -> QuerySet[Run]:
    ordered = runs.select_related("task__credential").defer(*_LEFT_OUT).order_by("-sorted_at", "-pk")
    if place is None:
        return ordered
    at, pk = place
    return ordered.filter(Q(sorted_at__lt=at) | Q(pk__lt=pk), sorted_at__lte=at)


def _place(run: Run) -> Place:
    return run.sorted_at, run.pk
