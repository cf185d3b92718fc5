"""The CSV export of a board's runs, newest first, and the page that shows how many there are.

`services.runs.export` collects the ids of the runs at the start (16 bytes each). So the file has exactly the recorded
number of rows, even if runs end during the download. Rows are read in short queries, so a slow download keeps neither
many rows in memory nor a transaction open.

Rows are read as tuples, because model instances take four times as long. Each task and creator is read once.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self

from django.db.models import Func, Max, Min, Q, TextField
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


class UtcText(Func):
    """A time as ISO 8601 text in UTC. The database formats it several times as fast as Python."""

    output_field = TextField()
    template = """to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

    def as_sqlite(self, compiler: Any, connection: Any, **_context: Any) -> Any:
        """SQLite stores `2026-11-23 03:00:00`, in UTC, with microseconds unless they are 0."""
        text = "replace(substr(%(expressions)s || '.000000', 1, 26), ' ', 'T') || 'Z'"
        return super().as_sql(compiler, connection, template=text)


class ExportedRun(NamedTuple):
    """The columns of a run that are exported, in the order in which they are read; times as text."""

    id: uuid.UUID
    task_id: uuid.UUID
    arize_id: str
    endpoint: str
    status: str
    raw_status: str
    num_successes: int | None
    num_errors: int | None
    num_skipped: int | None
    experiment_id: str | None
    created_by_user_id: str | None
    failure_reason: str | None
    duration_us: int
    created: str | None
    started: str | None
    finished: str | None
    data_start: str | None
    data_end: str | None
    gone: str | None
    observed: str


# The last fields of ExportedRun: times as text, each from a column.
_TIMES = {
    "created": UtcText("created_at"),
    "started": UtcText("run_started_at"),
    "finished": UtcText("run_finished_at"),
    "data_start": UtcText("data_start_time"),
    "data_end": UtcText("data_end_time"),
    "gone": UtcText("gone_since"),
    "observed": UtcText("observed_at"),
}


@dataclass(frozen=True, slots=True)
class _Ended:
    """The fields of a cancelled run that `cause_of` reads."""

    status: str
    failure_reason: str | None
    created_at: datetime | None
    run_started_at: datetime | None
    run_finished_at: datetime | None
    num_successes: int | None
    num_errors: int | None
    num_skipped: int | None

    @classmethod
    def of(cls, run: ExportedRun) -> Self:
        created, started, finished = map(_time, (run.created, run.started, run.finished))
        counts = (run.num_successes, run.num_errors, run.num_skipped)
        return cls(run.status, run.failure_reason, created, started, finished, *counts)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


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
    """The runs in the order of `ids`, without any deleted since, and the cancellation that counts for each, if any.

    If most runs between the first and the last id are wanted, reading this range of the index is several times as fast
    as reading by id. Each query checks the team again.
    """
    span = Run.objects.filter(team=team, pk__in=(ids[0], ids[-1])).aggregate(
        since=Min("sorted_at"), to=Max("sorted_at")
    )
    rows = [] if span["since"] is None else _rows(Q(team=team, sorted_at__range=(span["since"], span["to"])))
    is_dense = 0 < len(rows) < 2 * CHUNK
    found = {row.id: row for row in rows} if is_dense else {}
    # Not in the range: the range was too long to read, or a run's place in the order has changed since.
    if missing := [pk for pk in ids if pk not in found]:
        found |= {row.id: row for row in _rows(Q(team=team, pk__in=missing))}
    runs = [found[pk] for pk in ids if pk in found]
    of_runs = Q(run__sorted_at__range=(span["since"], span["to"])) if is_dense else Q(run__in=[run.id for run in runs])
    cancelled = set(Cancellation.objects.filter(of_runs, run__team=team).values_list("run_id", flat=True))
    return runs, credited_cancellations({run.id: run.status for run in runs if run.id in cancelled})


def _rows(wanted: Q) -> list[ExportedRun]:
    """At most 2 * CHUNK rows."""
    rows = Run.objects.filter(wanted).annotate(**_TIMES).values_list(*ExportedRun._fields)
    return list(map(ExportedRun._make, rows[: 2 * CHUNK]))


@dataclass
class _Known:
    """Cells that several runs share: those of each task, and the names of creators."""

    team: Team
    tasks: dict[uuid.UUID, list[str]] = field(default_factory=dict)
    creators: dict[tuple[str, str | None], str] = field(default_factory=dict)

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
                self.tasks[pk] = [defused(text or "") for text in texts]

    def cells(self, run: ExportedRun, last: Cancellation | None) -> list[object]:
        """One row of COLUMNS. `last`: the cancellation that the board shows for the run.

        While the name of the person who triggered the run is unknown, their id is used.
        """
        has_ended = run.started is not None and run.finished is not None
        creator = defused(run.created_by_user_id or "")
        return [
            run.id,
            defused(run.arize_id),
            *self.tasks[run.task_id],
            run.endpoint,
            run.status,
            defused(run.raw_status),
            run.created,
            run.started,
            run.finished,
            f"{run.duration_us / 1_000_000:.3f}" if has_ended else "",
            run.data_start,
            run.data_end,
            run.num_successes,
            run.num_errors,
            run.num_skipped,
            defused(run.experiment_id or ""),
            creator,
            self.creators.get((run.endpoint, run.created_by_user_id)) or creator,
            defused(run.failure_reason or ""),
            defused(cause_of(_Ended.of(run), last)) if run.status == Status.CANCELLED else "",
            *(_NO_CANCELLATION if last is None else _cancellation(last)),
            run.gone,
            run.observed,
        ]


_NO_CANCELLATION = ("",) * 4


def _cancellation(last: Cancellation) -> tuple[str, ...]:
    texts = (last.person_label, last.reason, last.outcome or Outcome.OPEN.label)
    at = last.requested_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return (at, *map(defused, texts))
