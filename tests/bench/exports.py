"""The CSV export of 100,000 runs, compared with a plain `csv.writer` over the same columns.

BENCH_EXPORT_RUNS: number of runs, by default 100,000.
"""

import csv
import io
import os

from django.test import Client

from taskruns.models import Membership, Run, Team, TeamRole, User
from taskruns.pages.board.export import COLUMNS
from taskruns.services import mirror
from tests.bench.table import Figure, median_ms

RUNS = int(os.environ.get("BENCH_EXPORT_RUNS", "100000"))
TIMES = 3
_PLAIN = (
    *("id", "arize_id", "task__arize_id", "task__name", "task__type", "task__space_id", "task__space_name"),
    *("task__credential__name", "endpoint", "status", "raw_status", "created_at", "run_started_at", "run_finished_at"),
    *("duration_us", "data_start_time", "data_end_time", "num_successes", "num_errors", "num_skipped"),
    *("experiment_id", "created_by_user_id", "failure_reason", "gone_since", "observed_at"),
)


def measure() -> list[Figure]:
    team = Team.objects.create(slug="bench-export", name="Bench export")
    person = User.objects.create(email="bench-export@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.VIEWER)
    for _done in mirror.fill_runs(team, runs=RUNS):
        pass
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    plain = median_ms(lambda _number: _plain(team), range(TIMES))
    export = median_ms(lambda _number: _export(client), range(TIMES))
    what = f"CSV export of {RUNS:,} runs, {len(COLUMNS)} columns"
    return [Figure(what, export, "ms", plain, "csv.writer over values_list", "<= 1.5x")]


def _plain(team: Team) -> None:
    text = io.StringIO()
    rows = Run.objects.filter(team=team).order_by("-sorted_at", "-pk").values_list(*_PLAIN)
    csv.writer(text).writerows(rows.iterator())


def _export(client: Client) -> None:
    answer = client.get("/teams/bench-export/runs/export.csv")
    lines = sum(piece.count(b"\n") for piece in answer.streaming_content)  # type: ignore[attr-defined]
    if lines != RUNS + 1:
        raise RuntimeError(f"{lines} lines")
