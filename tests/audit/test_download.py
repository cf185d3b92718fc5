"""Downloading the log: streamed, recorded first, filtered like the page, safe in a spreadsheet."""

import csv
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.http import StreamingHttpResponse
from django.test.utils import CaptureQueriesContext

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AuditAnchor, AuditEvent, Run, Team, User
from taskruns.services import audit
from taskruns.services.audit.export import _cell
from tests.bench.audit_rows import fill
from tests.clients import ClientOf
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import actor
from tests.spreadsheets import EVIL
from tests.stored import events

from .chain_reader import HASHED, assert_linked, read_export, stored
from .tampering import found

pytestmark = pytest.mark.usefixtures("any_details")

NORTH, SITE = "/teams/ops-north/audit/export.", "/audit/export."


@pytest.fixture
def history(team: Team, other_team: Team, run: Run, oli: User, mona: User) -> None:
    record(EventType.TEAM_CHANGE, "done", by=actor(mona, "manager"), team=team, target=Target("team", "1", "Ops North"))
    record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, reason="wrong data, 東京")
    record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=other_team, reason="of the south")
    record(EventType.PERSON_CREATE, "done", by=Actor.command(), reason="of the site")


def lines_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.getvalue().decode().splitlines()]


def rows_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["event"] for line in lines if "event" in line]


def test_the_page_and_the_command_export_the_same_lines(history: None, team: Team, mona: User, client_of: ClientOf):
    lines = lines_of(client_of(mona).get(f"{NORTH}jsonl"))
    manifest = lines[0]["manifest"]
    assert (manifest["exported_by"], manifest["filtered"], manifest["last_seq"]) == ("mona@example.com", False, 3)
    assert rows_of(lines) == stored(f"team:{team.pk}")
    assert_linked(rows_of(lines))
    assert [line["anchor"]["seq"] for line in lines if "anchor" in line] == [3]


def test_the_site_page_exports_the_sites_chain(history: None, ada: User, client_of: ClientOf):
    lines = lines_of(client_of(ada).get(f"{SITE}jsonl"))
    assert {row["chain"] for row in rows_of(lines)} == {lines[0]["manifest"]["chain"]} == {"site"}
    assert [row["event"] for row in rows_of(lines)] == ["person.create", "audit.export"]


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_the_digest_is_over_the_bytes_before_compression(history: None, mona: User, client_of: ClientOf, encoding: str):
    answer: Any = client_of(mona).get(f"{NORTH}jsonl", headers={"accept-encoding": encoding})
    assert answer.headers.get("Content-Encoding", "") == encoding
    content = answer.getvalue()
    assert read_export(gzip.decompress(content) if encoding else content)["trailer"]["events"] == 3


def test_a_download_that_broke_off_has_no_trailer(history: None, mona: User, monkeypatch: pytest.MonkeyPatch):
    chosen = audit.export(None, by=actor(mona), kind="jsonl")

    def broken(_rows: Any, _names: Any) -> Iterator[dict[str, Any]]:
        yield {"seq": 1}
        raise OperationalError

    monkeypatch.setattr(sys.modules[audit.Export.__module__], "stream_values", broken)
    sent: list[str] = []
    with pytest.raises(OperationalError):
        sent.extend(audit.jsonl_lines(chosen))
    assert [next(iter(json.loads(line))) for line in sent] == ["manifest", "event"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_the_export_is_a_streamed_file_that_is_not_cached(history: None, mona: User, client_of: ClientOf, kind: str):
    answer: Any = client_of(mona).get(f"{NORTH}{kind}")
    assert isinstance(answer, StreamingHttpResponse)
    assert answer["Content-Disposition"] == f'attachment; filename="audit-ops-north.{kind}"'
    assert "no-store" in answer["Cache-Control"]
    assert answer["Content-Type"] == {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}[kind]
    assert answer.getvalue()


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_export_is_recorded_before_it_is_sent(history: None, team: Team, mona: User, client_of: ClientOf, kind: str):
    answer: Any = client_of(mona).get(f"{NORTH}{kind}?event=run.cancel")
    (row,) = AuditEvent.objects.filter(event="audit.export")
    assert (row.outcome, row.actor_label, row.chain) == ("done", "mona@example.com", f"team:{team.pk}")
    assert row.details == {"format": kind, "filtered": True}
    assert AuditAnchor.objects.get(chain=row.chain).seq == row.seq
    iterator: Iterator[bytes] = iter(answer.streaming_content)
    assert next(iterator)
    del iterator, answer
    assert events(event="audit.export") == [("audit.export", "done")]


def test_nothing_is_exported_without_an_audit_row(history: None, mona: User, client_of: ClientOf):
    refuse_inserts("taskruns_auditevent")
    with transaction.atomic():
        answer = client_of(mona).get(f"{NORTH}jsonl")
        transaction.set_rollback(True)
    assert answer.status_code == 503
    assert b"run.cancel" not in answer.getvalue()
    accept_inserts("taskruns_auditevent")
    assert b"run.cancel" in client_of(mona).get(f"{NORTH}jsonl").getvalue()


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        ("event=run.cancel", [2]),
        ("person=oli", [2]),
        ("q=東京", [2]),
        ("outcome=denied", []),
        ("since=2030-01-01", []),
        ("until=2030-01-01", [1, 2, 3]),
        ("before=2", [1, 2, 3]),
        ("event=", [1, 2, 3]),
    ],
)
def test_the_export_uses_the_filter_of_the_page(
    history: None, mona: User, client_of: ClientOf, query: str, seqs: list[int]
):
    lines = lines_of(client_of(mona).get(f"{NORTH}jsonl?{query}"))
    assert [row["seq"] for row in rows_of(lines)] == seqs
    manifest = lines[0]["manifest"]
    is_filtered = query not in {"before=2", "event="}
    assert manifest["filtered"] is is_filtered
    assert (manifest["first_seq"], manifest["last_seq"]) == ((seqs[0], seqs[-1]) if seqs else (None, None))


@pytest.mark.parametrize("path", [f"{NORTH}jsonl", f"{NORTH}csv"])
def test_a_bad_filter_is_a_400_without_an_export(history: None, mona: User, client_of: ClientOf, path: str):
    assert client_of(mona).get(f"{path}?event=nothing").status_code == 400
    assert not events(event="audit.export")
    assert client_of(mona).get(f"{NORTH}xml").status_code == 404


def table_of(answer: Any) -> list[dict[str, str]]:
    assert answer.status_code == 200
    content = answer.getvalue()
    assert content.startswith(b"\xef\xbb\xbfschema,"), "Excel on Windows reads UTF-8 only after a byte order mark"
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_the_table_has_every_column_and_the_oldest_row_first(
    history: None, team: Team, mona: User, client_of: ClientOf
):
    rows = table_of(client_of(mona).get(f"{NORTH}csv"))
    assert list(rows[0]) == [*HASHED, "hash"]
    for row, known in zip(rows, stored(f"team:{team.pk}"), strict=True):
        assert row["reason"] == known["reason"]
        assert (row["seq"], row["at"], row["hash"]) == (str(known["seq"]), known["at"], known["hash"])
        assert json.loads(row["details"]) == known["details"]


def test_no_cell_is_a_formula(team: Team, mona: User, client_of: ClientOf):
    for text in EVIL:
        target = Target("team", "=id", text)
        record(EventType.TEAM_CHANGE, "done", by=Actor(type="user", label=text), team=team, target=target, reason=text)
    rows = table_of(client_of(mona).get(f"{NORTH}csv"))
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    # `record()` removed control characters; the rest is there, after an apostrophe.
    kept = {row["reason"] for row in rows}
    assert kept >= {"'=1+1", "'+1", "'-1", "'@SUM(A1)", "'=1", '\'=HYPERLINK("http://evil.example")'}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_is_defused_whatever_wrote_it(start: str):
    assert _cell(f"{start}1") == f"'{start}1"
    assert _cell(f"1{start}") == f"1{start}"


def test_the_table_contains_no_nul(team: Team, mona: User, client_of: ClientOf):
    by = Actor(type="user", label="a\x00b", user_agent="\x00")
    record(EventType.TEAM_CHANGE, "done", by=by, team=team, reason="x\x00y", details={"n\x00": "\x00v"})
    for kind in ("csv", "jsonl"):
        content = client_of(mona).get(f"{NORTH}{kind}").getvalue()
        assert b"a b" in content
        assert b"\x00" not in content
        assert rb"\u0000" not in content


def test_rows_added_while_streaming_are_left_out(history: None, team: Team, mona: User, client_of: ClientOf):
    answer: Any = client_of(mona).get(f"{NORTH}jsonl")
    record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
    assert [row["seq"] for row in rows_of(lines_of(answer))] == [1, 2, 3]
    assert found(f"team:{team.pk}") == []


def test_chunks_join_without_gap_or_duplicate(team: Team, mona: User, monkeypatch: pytest.MonkeyPatch):
    for _ in range(11):
        record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
    for chunk in (1, 2, 3, 6, 12, 13):
        monkeypatch.setattr("taskruns.services.audit.rows.CHUNK", chunk)
        with CaptureQueriesContext(connection):
            lines = [json.loads(line) for line in audit.jsonl_lines(audit.export(team, by=actor(mona), kind="jsonl"))]
        assert_linked(rows_of(lines))
        assert lines[0]["manifest"]["last_seq"] == len(rows_of(lines))


def traced_growth(lines: Iterable[bytes | str], *, between: tuple[int, int]) -> int:
    """How many bytes Python's memory grew between two lines of the stream."""
    held = {}
    tracemalloc.start()
    try:
        for number, _line in enumerate(lines):
            if number in between:
                held[number] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return held[between[1]] - held[between[0]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_six_thousand_rows_need_no_more_memory_than_two_thousand(team: Team, mona: User, kind: str):
    fill(f"team:{team.pk}", rows=6_000)
    lines = {"jsonl": audit.jsonl_lines, "csv": audit.csv_lines}[kind]
    stream = lines(audit.export(team, by=actor(mona), kind=kind))
    assert traced_growth(stream, between=(2_000, 6_000)) < 500_000
    kept: list[bytes | str] = []
    stream = (kept.append(line) or line for line in lines(audit.export(team, by=actor(mona), kind=kind)))
    assert traced_growth(stream, between=(2_000, 6_000)) > 1_500_000, "the control: rows in memory are measured"
