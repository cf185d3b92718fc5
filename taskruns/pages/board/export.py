"""The CSV export of a board's runs: all columns, newest first, in little memory. And the page that shows their number.

The ids of the rows were collected when the export started (`services.runs.export`, 16 bytes a run). The file therefore
has exactly the recorded number of rows, even if runs end during the download. Rows are read in short queries, so a slow
download holds neither a copy of the table nor a transaction.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from django.urls import reverse
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import Cancellation, Outcome, Run, Status, Team
from taskruns.pages.cancellations import cause_of
from taskruns.pages.saved_views import Choice, board_url, choices_of
from taskruns.services.runs.export import Export
from taskruns.services.runs.matching import matching
from taskruns.services.spreadsheet import csv_line, defused

from .rows import latest_cancellations, with_creators

COLUMNS = (
    "panel_id",
    "run_id",
    "task_id",
    "task_name",
    "task_type",
    "space_id",
    "space_name",
    "key_name",
    "endpoint",
    "status",
    "raw_status",
    "created_at",
    "run_started_at",
    "run_finished_at",
    "duration_seconds",
    "data_start_time",
    "data_end_time",
    "num_successes",
    "num_errors",
    "num_skipped",
    "experiment_id",
    "created_by_user_id",
    "triggered_by",
    "failure_reason",
    "cancelled_because",
    "cancel_asked_at",
    "cancel_asked_by",
    "cancel_reason",
    "cancel_outcome",
    "gone_since",
    "last_read_at",
)


@dataclass(frozen=True, slots=True)
class ExportPage:
    """`rows` is the exact number. `columns` is the header of the file."""

    team: str
    slug: str
    rows: int
    choices: tuple[Choice, ...]
    csv_url: str
    board_url: str
    columns: tuple[str, ...] = COLUMNS

    @property
    def count(self) -> str:
        return "1 run" if self.rows == 1 else f"{self.rows:,} runs"


def run_cells(run: Run, *, last: Cancellation | None, creator: str = "") -> list[str]:
    """One row of COLUMNS; times in UTC. `last`: the cancellation that the board shows for the run. `creator`: the name
    of the person who triggered it; if unknown, the id is used.

    Expects `run.task.credential` to be loaded.
    """
    task, key = run.task, run.task.credential
    return [
        str(run.pk),
        *_texts(run.arize_id, task.arize_id, task.name, task.type, task.space_id, task.space_name),
        *_texts(key.name if key else "", run.endpoint, run.status, run.raw_status),
        *map(_utc, (run.created_at, run.run_started_at, run.run_finished_at)),
        _seconds(run),
        *map(_utc, (run.data_start_time, run.data_end_time)),
        *map(_number, (run.num_successes, run.num_errors, run.num_skipped)),
        *_texts(run.experiment_id, run.created_by_user_id, creator or run.created_by_user_id, run.failure_reason),
        defused(cause_of(run, last)) if run.status == Status.CANCELLED else "",
        *_cancellation(last),
        *map(_utc, (run.gone_since, run.observed_at)),
    ]


def _cancellation(last: Cancellation | None) -> list[str]:
    if last is None:
        return [""] * 4
    return [_utc(last.requested_at), *_texts(last.person_label, last.reason, last.outcome or Outcome.OPEN.label)]


def _texts(*texts: str | None) -> list[str]:
    return [defused(text or "") for text in texts]


def _utc(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _seconds(run: Run) -> str:
    """From start to end; empty while the run is active."""
    if run.run_started_at is None or run.run_finished_at is None:
        return ""
    return f"{max(0.0, (run.run_finished_at - run.run_started_at).total_seconds()):.3f}"


CHUNK = 500
# Large and not exported: Arize's raw JSON, and everything about a key except its name.
_KEY = ("ciphertext", "last4", "spaces", "recent_calls")
_LEFT_OUT = ("as_read", "task__as_read", *(f"task__credential__{name}" for name in _KEY))


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


def csv_parts(chosen: Export) -> Iterator[str]:
    """The header, then a few hundred lines at a time."""
    yield csv_line(COLUMNS)
    for runs in map(_runs, chosen.in_chunks(CHUNK)):
        last = latest_cancellations(runs)
        yield "".join(csv_line(run_cells(run, last=last.get(run.pk), creator=run.creator)) for run in runs)


def _runs(ids: list[uuid.UUID]) -> list[Run]:
    table = Run.objects.select_related("task__credential").defer(*_LEFT_OUT)
    found = with_creators(table).in_bulk(ids)
    # Retention may have deleted a run since its id was collected.
    return [found[pk] for pk in ids if pk in found]
