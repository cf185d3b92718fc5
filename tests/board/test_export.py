"""Downloading the runs of a board as CSV: counted, recorded first, streamed, safe in a spreadsheet."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.http import HttpResponse, QueryDict, StreamingHttpResponse
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import ArizeUser, AuditEvent, Cancellation, Credential, Outcome, Run, Status, Task, Team, User
from taskruns.pages.board import export
from taskruns.pages.board.export import COLUMNS
from taskruns.services import mirror
from taskruns.services.runs.export import Export
from taskruns.services.runs.export import export as export_runs
from taskruns.services.spreadsheet import csv_line, defused
from tests.clients import ClientOf
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import CANARY, NOW, actor, make_run
from tests.spreadsheets import EVIL
from tests.stored import events
from tests.wire import ENDPOINT

FILE, PAGE = "/teams/ops-north/runs/export.csv", "/teams/ops-north/runs/export/"
HOSTILE = 'a"b,c;\r\nd\N{ROCKET} 東京 \u202ex <script>'


def table_of(answer: Any) -> list[dict[str, str]]:
    assert answer.status_code == 200
    return list(csv.DictReader(io.StringIO(answer.getvalue().decode("utf-8-sig"), newline="")))


def ids(rows: list[dict[str, str]]) -> list[str]:
    return [row["run_id"] for row in rows]


def wanted(query: str = "") -> BoardFilter:
    return BoardFilter.parse(QueryDict(query))


def some_runs(task: Task, *statuses: Status, **fields: Any) -> list[Run]:
    """The newest run first."""
    return [
        make_run(task, status=status, arize_id=f"run-{number}", created_at=NOW - timedelta(minutes=number), **fields)
        for number, status in enumerate(statuses)
    ]


# --- Content


def test_a_row_has_every_column_of_a_run_and_times_in_utc(
    team: Team, task: Task, vera: User, oli: User, client_of: ClientOf, settings: Any
):
    User.objects.update(time_zone="Asia/Tokyo")
    Task.objects.update(space_id="U3BhY2U6MQ==")
    run = make_run(
        task,
        status=Status.CANCELLED,
        arize_id="VGFza1J1bjo0Mg==",
        created_at=NOW,
        run_started_at=NOW + timedelta(seconds=1),
        run_finished_at=NOW + timedelta(seconds=323, milliseconds=456),
        data_start_time=NOW - timedelta(days=1),
        data_end_time=NOW,
        num_successes=2**62,
        num_errors=0,
        experiment_id="RXhwZXJpbWVudDox",
        created_by_user_id="VXNlcjoxOm5OYkM=",
        observed_at=NOW + timedelta(hours=1),
    )
    Cancellation.objects.create(
        run=run,
        person=oli,
        person_label=oli.email,
        reason="wrong data",
        outcome=Outcome.CONFIRMED,
        requested_at=NOW + timedelta(seconds=300),
    )
    name_the_creator(run, "Nora Lindqvist")
    (row,) = table_of(client_of(vera).get(FILE))
    assert tuple(row) == COLUMNS
    assert row == {
        "panel_id": str(run.pk),
        "run_id": "VGFza1J1bjo0Mg==",
        "task_id": "T25saW5lVGFzazo0NTpxUndY",
        "task_name": "Answer relevance evaluation",
        "task_type": "template_evaluation",
        "space_id": "U3BhY2U6MQ==",
        "space_name": "support-bot",
        "key_name": "Production",
        "endpoint": ENDPOINT,
        "status": "cancelled",
        "raw_status": "CANCELLED",
        "created_at": "2026-11-23T03:00:00.000000Z",
        "run_started_at": "2026-11-23T03:00:01.000000Z",
        "run_finished_at": "2026-11-23T03:05:23.456000Z",
        "duration_seconds": "322.456",
        "data_start_time": "2026-11-22T03:00:00.000000Z",
        "data_end_time": "2026-11-23T03:00:00.000000Z",
        "num_successes": str(2**62),
        "num_errors": "0",
        "num_skipped": "",
        "experiment_id": "RXhwZXJpbWVudDox",
        "created_by_user_id": "VXNlcjoxOm5OYkM=",
        "triggered_by": "Nora Lindqvist",
        "failure_reason": "",
        "cancelled_because": "cancelled by oli@example.com: wrong data",
        "cancel_asked_at": "2026-11-23T03:05:00.000000Z",
        "cancel_asked_by": "oli@example.com",
        "cancel_reason": "wrong data",
        "cancel_outcome": "confirmed",
        "gone_since": "",
        "last_read_at": "2026-11-23T04:00:00.000000Z",
    }


def name_the_creator(run: Run, name: str) -> None:
    arize_id = run.created_by_user_id or ""
    ArizeUser.objects.create(team=run.team, endpoint=run.endpoint, arize_id=arize_id, name=name, known=True)


def test_an_unknown_person_is_an_id_and_needs_no_query_per_row(team: Team, task: Task, vera: User, client_of: ClientOf):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            table_of(client.get(FILE))
        return len(captured)

    client = client_of(vera)
    named, *_ = some_runs(task, *[Status.COMPLETED] * 3, created_by_user_id="U1")
    assert {row["triggered_by"] for row in table_of(client.get(FILE))} == {"U1"}
    few = queries()
    Run.objects.filter(pk=named.pk).update(created_by_user_id="=U2")
    name_the_creator(Run.objects.get(pk=named.pk), "=Nora")
    assert [row["triggered_by"] for row in table_of(client.get(FILE))] == ["'=Nora", "U1", "U1"]
    assert queries() == few


def test_an_unknown_value_is_an_empty_cell(team: Team, task: Task, vera: User, client_of: ClientOf):
    Task.objects.update(credential=None, name="")
    run = make_run(task, status=Status.RUNNING)
    Cancellation.objects.create(run=run, person_label="oli@example.com")
    Run.objects.update(created_at=None, run_started_at=None, num_errors=None)
    (row,) = table_of(client_of(vera).get(FILE))
    empty = {name for name, cell in row.items() if not cell}
    assert empty >= {"key_name", "task_name", "created_at", "run_started_at", "duration_seconds", "num_errors"}
    assert empty >= {"cancelled_because", "failure_reason", "gone_since"}
    assert row["cancel_outcome"] == "open"


def test_the_year_1_of_servers_in_go_is_exported(team: Team, task: Task, vera: User, client_of: ClientOf):
    make_run(task, run_finished_at=datetime(1, 1, 1, tzinfo=UTC))
    (row,) = table_of(client_of(vera).get(FILE))
    assert (row["run_finished_at"], row["duration_seconds"]) == ("0001-01-01T00:00:00.000000Z", "0.000")


def test_the_file_contains_no_key(team: Team, task: Task, credential: Credential, vera: User, client_of: ClientOf):
    make_run(task)
    with CaptureQueriesContext(connection) as queries:
        content = client_of(vera).get(FILE).getvalue().decode("utf-8-sig")
    assert "Production" in content
    for secret in (CANARY, credential.ciphertext):
        assert secret not in content
    asked = [query["sql"] for query in queries if 'FROM "taskruns_run"' in query["sql"]]
    assert asked
    assert not [sql for sql in asked if "ciphertext" in sql or "as_read" in sql]


# --- Safe in a spreadsheet


def test_no_cell_is_a_formula(team: Team, task: Task, vera: User, client_of: ClientOf):
    for text in EVIL:
        Task.objects.filter(pk=task.pk).update(name=text, space_name=text, space_id=text)
        run = make_run(
            task,
            status=Status.CANCELLED,
            raw_status=text,
            arize_id=f"{text} {len(text)}",
            failure_reason=text,
            experiment_id=text,
            created_by_user_id=text,
        )
        Cancellation.objects.create(run=run, person_label=text, reason=text, outcome=Outcome.REFUSED)
    rows = table_of(client_of(vera).get(FILE))
    assert len(rows) == len(EVIL)
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    for name in ("failure_reason", "cancel_reason", "cancel_asked_by", "experiment_id", "created_by_user_id"):
        assert {row[name] for row in rows} == {f"'{text}" for text in EVIL}, name


def test_the_file_has_as_many_rows_as_announced_despite_changes(
    team: Team, task: Task, mona: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export, "CHUNK", 2)
    some_runs(task, *[Status.RUNNING] * 7)
    chosen = export_runs(team, wanted("status=running"), by=actor(mona))

    def end_all() -> None:
        Run.objects.update(status=Status.COMPLETED, rank=0)

    assert exported(chosen, end_all) == [f"run-{number}" for number in range(7)]
    assert chosen.rows == 7


FULL_WIDTH = [chr(0xFF00 + ord(start) - 0x20) for start in "=+-@"]
STARTS = ["=", "+", "-", "@", "\t", "\r", "\n", "\n=", " =", "\xa0+", "\u200b-", "\ufeff@", *FULL_WIDTH]


@pytest.mark.parametrize("start", STARTS, ids=[ascii(start) for start in STARTS])
def test_only_the_start_of_a_text_is_escaped(start: str):
    assert defused(f"{start}1") == f"'{start}1"
    assert defused(f"1{start}") == f"1{start}"


def test_hostile_text_stays_in_its_cell(team: Team, task: Task, vera: User, client_of: ClientOf):
    Task.objects.update(name=HOSTILE)
    make_run(task, failure_reason=HOSTILE, status=Status.FAILED)
    (row,) = table_of(client_of(vera).get(FILE))
    assert (row["task_name"], row["failure_reason"], row["cancelled_because"]) == (HOSTILE, HOSTILE, "")
    assert None not in row


def test_the_csv_module_reads_each_line_back():
    cells = [HOSTILE, "", "a", "'=1"]
    assert next(csv.reader(io.StringIO(csv_line(cells), newline=""))) == cells


# --- Which runs and how many


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["run-0", "run-1", "run-2", "run-3"]),
        ("status=failed", ["run-1", "run-3"]),
        ("status=failed&status=running", ["run-1", "run-2", "run-3"]),
        ("q=run-2", ["run-2"]),
        ("q=relevance", ["run-0", "run-1", "run-2", "run-3"]),
        ("task=nowhere", []),
        ("cursor=damaged&status=running", ["run-2"]),
        ("status=", ["run-0", "run-1", "run-2", "run-3"]),
    ],
)
def test_the_export_uses_the_filter_of_the_board(
    team: Team, other_team: Team, task: Task, vera: User, client_of: ClientOf, query: str, found: list[str]
):
    some_runs(task, Status.COMPLETED, Status.FAILED, Status.RUNNING, Status.FAILED)
    elsewhere = Task.objects.create(team=other_team, endpoint=ENDPOINT, arize_id="x", name="relevance")
    make_run(elsewhere, status=Status.FAILED)
    assert ids(table_of(client_of(vera).get(f"{FILE}?{query}"))) == found
    count = "1 run" if len(found) == 1 else f"{len(found)} runs"
    assert f"<h1>{count} as CSV</h1>" in client_of(vera).get(f"{PAGE}?{query}").content.decode()
    row = AuditEvent.objects.get(event="run.export")
    cleaned = query.removeprefix("cursor=damaged&") if query != "status=" else ""
    assert row.details == {"format": "csv", "query": cleaned, "rows": len(found)}


def test_the_page_shows_the_number_and_links_to_the_file(team: Team, task: Task, vera: User, client_of: ClientOf):
    some_runs(task, *[Status.FAILED] * 3, Status.RUNNING)
    page = client_of(vera).get(f"{PAGE}?q=judge+%26&status=failed&cursor=x").content.decode()
    assert "No runs match these filters" in page
    assert "export.csv" not in page
    page = client_of(vera).get(f"{PAGE}?status=failed&q=run-&cursor=x").content.decode()
    assert re.search(rf'href="{FILE}\?status=failed&amp;q=run-" download>Download CSV of 3 runs<', page)
    assert not AuditEvent.objects.exists()


def test_the_board_links_to_the_page_with_its_filter(team: Team, task: Task, vera: User, client_of: ClientOf):
    for query in ("", "?status=failed&amp;q=run-"):
        board = client_of(vera).get(f"/teams/ops-north/runs/{query.replace('&amp;', '&')}").content.decode()
        assert f'href="{PAGE}{query}"' in board


@pytest.mark.parametrize("path", [FILE, PAGE])
def test_a_bad_filter_is_a_400_without_an_export(team: Team, vera: User, client_of: ClientOf, path: str):
    answer = client_of(vera).get(f"{path}?status=sideways")
    assert answer.status_code == 400
    assert "There is no status “sideways”" in answer.content.decode()
    assert not events(event="run.export")


@pytest.mark.parametrize("path", [FILE, PAGE])
def test_outsiders_get_no_export(team: Team, otto: User, vera: User, client_of: ClientOf, path: str):
    assert client_of(otto).get(path).status_code == 404
    assert client_of(None).get(path).status_code == 302
    assert not events(event="run.export", outcome="done")
    assert client_of(vera).get(path).status_code == 200


# --- The response


def test_the_export_is_a_streamed_file_that_is_not_cached(
    team: Team, run: Run, vera: User, client_of: ClientOf, time_machine: Any
):
    time_machine.move_to(NOW + timedelta(days=1), tick=False)
    answer: Any = client_of(vera).get(FILE)
    assert isinstance(answer, StreamingHttpResponse)
    assert answer["Content-Disposition"] == 'attachment; filename="runs-ops-north-20261124T030000Z.csv"'
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert "no-store" in answer["Cache-Control"]


def test_the_export_is_recorded_before_the_first_byte(team: Team, task: Task, vera: User, client_of: ClientOf):
    some_runs(task, Status.FAILED, Status.RUNNING)
    answer: Any = client_of(vera).get(f"{FILE}?status=failed")
    (row,) = AuditEvent.objects.all()
    assert (row.event, row.outcome, row.actor_label, row.chain) == (
        "run.export",
        "done",
        vera.email,
        f"team:{team.pk}",
    )
    assert row.details == {"format": "csv", "query": "status=failed", "rows": 1}
    iterator: Iterator[bytes] = iter(answer.streaming_content)
    assert next(iterator).startswith(b"\xef\xbb\xbfpanel_id,run_id,")
    del iterator, answer
    assert events() == [("run.export", "done")]


def test_nothing_is_exported_without_an_audit_row(team: Team, run: Run, vera: User, client_of: ClientOf):
    refuse_inserts("taskruns_auditevent")
    with transaction.atomic():
        answer: HttpResponse = client_of(vera).get(FILE)
        transaction.set_rollback(True)
    assert answer.status_code == 503
    assert run.arize_id.encode() not in answer.getvalue()
    accept_inserts("taskruns_auditevent")
    assert run.arize_id.encode() in client_of(vera).get(FILE).getvalue()


# --- Stable while runs start and end


def exported(chosen: Export, between: Any = lambda: None) -> list[str]:
    """The Arize ids in the file. `between` is called after each chunk."""
    text = ""
    for part in export.csv_parts(chosen):
        text += part
        between()
    return ids(list(csv.DictReader(io.StringIO(text, newline=""))))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8, 20])
def test_chunks_are_newest_first_and_join_without_gaps(
    team: Team, task: Task, mona: User, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr(export, "CHUNK", chunk)
    some_runs(task, *[Status.RUNNING, Status.COMPLETED, Status.COMPLETED, Status.PENDING] * 2)
    chosen = export_runs(team, wanted(), by=actor(mona))
    assert chosen.rows == 8
    assert exported(chosen) == [f"run-{number}" for number in range(8)]


def test_runs_created_at_the_same_time_appear_once(team: Team, task: Task, mona: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "CHUNK", 2)
    for number in range(7):
        make_run(task, arize_id=str(number), status=[Status.RUNNING, Status.FAILED][number % 2], created_at=NOW)
    assert sorted(exported(export_runs(team, wanted(), by=actor(mona)))) == [str(number) for number in range(7)]


def test_runs_that_start_or_end_are_neither_repeated_nor_skipped(
    team: Team, task: Task, mona: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export, "CHUNK", 2)
    some_runs(task, *[Status.RUNNING, Status.COMPLETED] * 5)
    chosen = export_runs(team, wanted(), by=actor(mona))
    ending = iter([run.pk for run in Run.objects.filter(rank=1).order_by("-sorted_at")])

    def end_one_and_add_two() -> None:
        """One run ends, a new one appears first and an old one last."""
        Run.objects.filter(pk=next(ending, None)).update(status=Status.COMPLETED, rank=0)
        for created in (timezone.now(), NOW - timedelta(days=9)):
            make_run(task, status=Status.COMPLETED, created_at=created)

    assert exported(chosen, end_one_and_add_two) == [f"run-{number}" for number in range(10)]
    assert Run.objects.count() > 20


# --- Memory, in allocated blocks of Python, which do not depend on the tests that ran before

MANY_BLOCKS = 60_000


@pytest.mark.slow
def test_15000_runs_need_no_more_memory_than_6000(team: Team, mona: User):
    for _done in mirror.fill_runs(team, runs=15_000):
        pass
    chosen = export_runs(team, wanted(), by=actor(mona))
    held: dict[int, int] = {}
    lines = 0
    for part in export.csv_parts(chosen):
        lines += part.count("\r\n")
        held[lines] = sys.getallocatedblocks()
    assert lines == 15_001 == chosen.rows + 1
    assert held[15_001] - held[6_001] < MANY_BLOCKS


@pytest.mark.slow
def test_the_memory_check_detects_5000_kept_runs(team: Team, mona: User):
    """The control of the test above: a third of the rows kept in a list exceed its limit."""
    for _done in mirror.fill_runs(team, runs=5_000):
        pass
    chosen = export_runs(team, wanted(), by=actor(mona))
    before = sys.getallocatedblocks()
    kept = [run for ids in chosen.in_chunks(export.CHUNK) for run in export._read(team, ids)[0]]
    assert len(kept) == 5_000
    assert sys.getallocatedblocks() - before > MANY_BLOCKS


def test_each_chunk_takes_a_few_fast_queries(team: Team, task: Task, mona: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "CHUNK", 2)
    some_runs(task, *[Status.COMPLETED] * 4)
    chosen = export_runs(team, wanted(), by=actor(mona))
    with CaptureQueriesContext(connection) as queries:
        assert len(exported(chosen)) == 4
    assert len(queries) == 1 + 1 + 2 * 3, "creators and tasks, and of each chunk its range, rows and cancellations"
    assert not [query["sql"] for query in queries if "OFFSET" in query["sql"]]
