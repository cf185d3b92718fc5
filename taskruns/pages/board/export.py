"""The CSV export of a board's runs: all columns, newest first, in little memory. And the page that shows their number.

The ids of the rows were collected when the export started (`services.runs.export`, 16 bytes a run). The file therefore
has exactly the recorded number of rows, even if runs end during the download. Rows are read in short queries, so a slow
download holds neither a copy of the table nor a transaction.

Rows are read as tuples, and tasks, keys and creators once each: as model instances a run costs four times as much.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from django.db.models import Max, Min, Q
from django.urls import reverse
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import ArizeUser, Cancellation, Outcome, Run, Status, Task, Team
from taskruns.pages.cancellations import cause_of
from taskruns.pages.saved_views import Choice, board_url, choices_of
from taskruns.services.runs.export import Export
from taskruns.services.runs.matching import matching
from taskruns.services.spreadsheet import BOM, csv_line, csv_lines, defused

from .rows import credited_cancellations

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


CHUNK = 2_000


class ExportedRun(NamedTuple):
    """The columns of a run that are exported, in the order in which they are read."""

    id: uuid.UUID
    arize_id: str
    task_id: uuid.UUID
    endpoint: str
    status: str
    raw_status: str
    created_at: datetime | None
    run_started_at: datetime | None
    run_finished_at: datetime | None
    data_start_time: datetime | None
    data_end_time: datetime | None
    num_successes: int | None
    num_errors: int | None
    num_skipped: int | None
    experiment_id: str | None
    created_by_user_id: str | None
    failure_reason: str | None
    gone_since: datetime | None
    observed_at: datetime


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
    """The header, then up to CHUNK lines at a time."""
    yield BOM + csv_line(COLUMNS)
    known = _Known(chosen.team)
    for ids in chosen.in_chunks(CHUNK):
        runs, last = _read(chosen.team, ids)
        known.learn(runs)
        yield csv_lines(known.cells(run, last.get(run.id)) for run in runs)


def _read(team: Team, ids: list[uuid.UUID]) -> tuple[list[ExportedRun], dict[uuid.UUID, Cancellation]]:
    """In the order of `ids`, without those that retention has deleted since, and the cancellations of some.

    A range of the index is read several times as fast as a list of ids, if most of its runs are wanted. The team is
    checked again in each query.
    """
    span = Run.objects.filter(team=team, pk__in=(ids[0], ids[-1])).aggregate(
        since=Min("sorted_at"), to=Max("sorted_at")
    )
    rows = [] if span["since"] is None else _rows(Q(team=team, sorted_at__range=(span["since"], span["to"])))
    is_dense = 0 < len(rows) < 2 * CHUNK
    found = {row.id: row for row in rows} if is_dense else {}
    # Those that a range does not show: the others of a filter, or a run whose place in the order has moved since.
    if missing := [pk for pk in ids if pk not in found]:
        found |= {row.id: row for row in _rows(Q(team=team, pk__in=missing))}
    runs = [found[pk] for pk in ids if pk in found]
    of_runs = Q(run__sorted_at__range=(span["since"], span["to"])) if is_dense else Q(run__in=[run.id for run in runs])
    cancelled = set(Cancellation.objects.filter(of_runs, run__team=team).values_list("run_id", flat=True))
    return runs, credited_cancellations({run.id: run.status for run in runs if run.id in cancelled})


def _rows(wanted: Q) -> list[ExportedRun]:
    """At most 2 * CHUNK."""
    return [ExportedRun(*row) for row in Run.objects.filter(wanted).values_list(*ExportedRun._fields)[: 2 * CHUNK]]


@dataclass
class _Known:
    """What several runs share, already as cells: the cells of each task, and the names of creators."""

    team: Team
    tasks: dict[uuid.UUID, list[str]] = field(default_factory=dict)
    creators: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        users = ArizeUser.objects.filter(team=self.team, known=True)
        for endpoint, arize_id, name, email in users.values_list("endpoint", "arize_id", "name", "email"):
            self.creators[endpoint, arize_id] = defused(name or email)

    def learn(self, runs: Iterable[ExportedRun]) -> None:
        """Read the tasks of these runs that are not known yet."""
        new = {run.task_id for run in runs} - self.tasks.keys()
        columns = ("arize_id", "name", "type", "space_id", "space_name", "credential__name")
        if new:
            for pk, *texts in Task.objects.filter(team=self.team, pk__in=new).values_list("pk", *columns):
                self.tasks[pk] = _texts(*texts)

    def cells(self, run: ExportedRun, last: Cancellation | None) -> list[str]:
        """One row of COLUMNS; times in UTC. `last`: the cancellation that the board shows for the run.

        While the name of the person who triggered the run is unknown, their id is used.
        """
        creator = defused(run.created_by_user_id or "")
        return [
            str(run.id),
            defused(run.arize_id),
            *self.tasks[run.task_id],
            *_texts(run.endpoint, run.status, run.raw_status),
            *map(_utc, (run.created_at, run.run_started_at, run.run_finished_at)),
            _seconds(run),
            *map(_utc, (run.data_start_time, run.data_end_time)),
            *map(_number, (run.num_successes, run.num_errors, run.num_skipped)),
            defused(run.experiment_id or ""),
            creator,
            self.creators.get((run.endpoint, run.created_by_user_id or "")) or creator,
            defused(run.failure_reason or ""),
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
    """Both databases return times in UTC."""
    return "" if at is None else at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _seconds(run: ExportedRun) -> str:
    """From start to end; empty while the run is active."""
    if run.run_started_at is None or run.run_finished_at is None:
        return ""
    return f"{max(0.0, (run.run_finished_at - run.run_started_at).total_seconds()):.3f}"
