"""How old the board says its rows are: true on each answer of a poll, also when the rows have not changed."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from taskruns.models import Credential, Membership, Run, Task, Team, TeamRole, User
from taskruns.pages.board import page as page_module
from taskruns.views import board as views
from tests.factories import make_credential, make_run

START = datetime.fromisoformat("2026-11-23T03:00:00+00:00")
BOARD, TABLE = "/teams/ops-north/runs/", "/teams/ops-north/runs/table/"
ALL_BOARDS, ALL_TABLES = "/runs/", "/runs/table/"
HEADERS = {"statuses": "X-Statuses-At", "searched": "X-Searched-At"}


@pytest.fixture(autouse=True)
def clock() -> Any:
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def run(credential: Credential, task: Task) -> Run:
    """Read 4 s ago. Its task, the only one, was searched for new runs 18 s ago."""
    read_until(task, statuses=4, searched=18)
    Credential.objects.update(tasks_read_at=START, last_good_at=ago(4), first_contact_done_at=START)
    return make_run(task, created_at=ago(300), observed_at=ago(4))


def ago(seconds: float) -> datetime:
    return START - timedelta(seconds=seconds)


def iso(seconds: float) -> str:
    return ago(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_until(task: Task, *, statuses: float, searched: float) -> None:
    """As if the mirror had read, without a change of any run."""
    Run.objects.filter(task=task).update(observed_at=ago(statuses))
    Task.objects.filter(pk=task.pk).update(searched_at=ago(searched), listed_at=START)
    Credential.objects.filter(pk=task.credential_id).update(tasks_listed_from=ago(1))


def poll(client: Client, url: str = TABLE, etag: str = "") -> Any:
    return client.get(url, headers={"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {}))


def root(html: str) -> dict[str, str]:
    """The ages that the root of the table's fragment has for scripts."""
    (tag,) = re.findall(r'<section id="board-table"[^>]*>', html)
    return dict(re.findall(r'data-(statuses|searched)-at="([^"]*)"', tag))


def line(html: str) -> str:
    """The line above the table. A time is shown as its own ISO time."""
    (found,) = re.findall(r'<p id="board-bar".*?</p>', html, re.DOTALL)
    shown = re.sub(r'<time datetime="([^"]*)"[^>]*>[^<]*</time>', r"\1", found)
    return " ".join(re.sub(r"<[^>]*>", "", shown).split())


@pytest.mark.parametrize(("url", "page"), [(TABLE, BOARD), (ALL_TABLES, ALL_BOARDS)])
def test_the_table_says_how_old_it_is(url: str, page: str, client: Client, run: Run):
    for html in (poll(client, url).content.decode(), client.get(page).content.decode()):
        assert root(html) == {"statuses": iso(4), "searched": iso(18)}
        assert line(html).endswith(f"statuses {iso(4)} · all tasks searched for new runs {iso(18)}")


@pytest.mark.parametrize("url", [TABLE, ALL_TABLES])
def test_the_ages_advance_while_the_rows_stay_the_same(url: str, client: Client, run: Run):
    first = poll(client, url)
    assert {name: first[header] for name, header in HEADERS.items()} == root(first.content.decode())
    for statuses, searched in ((3, 18), (2, 7), (900, 800)):
        read_until(run.task, statuses=statuses, searched=searched)
        answer = poll(client, url, first["ETag"])
        assert (answer.status_code, answer.content) == (304, b"")
        assert (answer["X-Statuses-At"], answer["X-Searched-At"]) == (iso(statuses), iso(searched))


def test_an_age_that_is_not_known_is_not_claimed(client: Client, run: Run, task: Task):
    known = poll(client)["ETag"]
    new = Task.objects.create(
        team=task.team, endpoint=task.endpoint, arize_id="new", credential=task.credential, listed_at=START
    )
    first = poll(client, etag=known)
    assert first.status_code == 200, "the text changes"
    assert root(first.content.decode()) == {"statuses": iso(4)}
    assert "X-Searched-At" not in first
    assert line(first.content.decode()).endswith(f"statuses {iso(4)} · tasks not searched yet")
    again = poll(client, etag=first["ETag"])
    assert (again.status_code, "X-Searched-At" in again) == (304, False)
    read_until(new, statuses=4, searched=2)
    last = poll(client, etag=first["ETag"])
    assert root(last.content.decode()) == {"statuses": iso(4), "searched": iso(18)}


def test_without_active_runs_no_status_can_be_old(client: Client, run: Run):
    Run.objects.update(status="completed", rank=0)
    html = poll(client).content.decode()
    assert root(html) == {"searched": iso(18)}
    assert line(html) == f"0 active runs in Ops North all tasks searched for new runs {iso(18)}"


def test_without_a_working_key_the_last_reading_is_dated(client: Client, run: Run):
    Credential.objects.update(failing_since=START, failing_reason="Rejected.")
    html = poll(client).content.decode()
    assert root(html) == {}
    assert line(html).endswith(f"last read from Arize {iso(4)}")
    Credential.objects.update(failing_since=None, last_good_at=None)
    assert line(poll(client).content.decode()).endswith("not read from Arize yet")


def test_the_board_of_all_teams_is_as_old_as_its_oldest_team(client: Client, run: Run, vera: User, other_team: Team):
    Membership.objects.create(team=other_team, user=vera, role=TeamRole.VIEWER)
    key = make_credential(other_team, last_good_at=START, tasks_read_at=START)
    other = Task.objects.create(team=other_team, endpoint=run.endpoint, arize_id="T", credential=key)
    make_run(other)
    read_until(other, statuses=2, searched=60)
    assert root(poll(client, ALL_TABLES).content.decode()) == {"statuses": iso(4), "searched": iso(60)}
    assert root(poll(client).content.decode()) == {"statuses": iso(4), "searched": iso(18)}


@pytest.mark.parametrize("url", [TABLE, ALL_TABLES])
def test_no_age_claims_a_run_that_came_in_during_the_poll(url: str, client: Client, run: Run, monkeypatch: Any):
    """The gate has loaded the team before the round ends, and the ages are read after it."""
    etag = poll(client, url)["ETag"]
    searched = []

    def end_a_round(*_teams: Team) -> None:
        make_run(run.task, arize_id="came-in", observed_at=ago(2))
        Team.bump(run.team_id)
        read_until(run.task, statuses=2, searched=2)
        searched.append(True)

    monkeypatch.setattr(views, "pay_attention", end_a_round)
    answer = poll(client, url, etag)
    assert searched
    assert answer.status_code == 200
    assert root(answer.content.decode())["searched"] == iso(2)
    assert "came-in" in answer.content.decode()
    monkeypatch.undo()
    assert poll(client, url, answer["ETag"]).status_code == 304


@pytest.mark.parametrize("url", [TABLE, ALL_TABLES])
def test_rows_are_never_older_than_the_ages_beside_them(url: str, client: Client, run: Run, monkeypatch: Any):
    """A round ends just after the rows are read."""
    read = page_module.list_runs

    def end_a_round(*given: Any) -> Any:
        listing = read(*given)
        make_run(run.task, arize_id="came-in", observed_at=ago(2))
        Team.bump(run.team_id)
        read_until(run.task, statuses=2, searched=2)
        return listing

    monkeypatch.setattr(page_module, "list_runs", end_a_round)
    answer = poll(client, url)
    assert root(answer.content.decode())["searched"] == answer["X-Searched-At"] == iso(18)
    monkeypatch.undo()
    following = poll(client, url, answer["ETag"])
    assert following.status_code == 200
    assert "came-in" in following.content.decode()


@pytest.mark.parametrize("url", [TABLE, ALL_TABLES])
def test_an_unchanged_poll_costs_few_queries_and_reads_no_rows(url: str, client: Client, run: Run, task: Task):
    etag = poll(client, url)["ETag"]

    def queries() -> list[str]:
        Team.objects.update(watched_at=ago(6))  # so that attention is written too, as in most polls
        with CaptureQueriesContext(connection) as captured:
            assert poll(client, url, etag).status_code == 304
        return [query["sql"] for query in captured if "SAVEPOINT" not in query["sql"]]

    few = queries()
    for number in range(60):
        make_run(task, arize_id=f"R{number}", observed_at=ago(4))
    many = queries()
    assert len(many) == len(few) <= 5, "\n".join(many)
    assert not [sql for sql in many if "as_read" in sql or "num_errors" in sql]


# --- When Arize is down


DOWN = "Arize is returning errors (503). The problem is on Arize's side. Try again in a moment."
RETRIED = "Arize is returning errors (503). The problem is on Arize's side. Retrying automatically since"


def wait(name: str = "Production", *, since: datetime, until: datetime, reason: str = DOWN) -> None:
    row = Credential.objects.filter(name=name)
    row.update(backoff_since=since, backoff_until=until, backoff_reason=reason, failures=1)
    Team.bump(row.get().team_id)


def warnings(html: str) -> list[str]:
    (box,) = re.findall(r'<div id="board-warnings">(.*?)</div>', html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", "", part).split()) for part in re.findall(r"<p.*?</p>", box, re.DOTALL)]


def text_of(client: Client) -> str:
    return poll(client).content.decode().replace("&#x27;", "'")


def test_a_failure_of_arize_is_told_once_and_not_in_each_row(client: Client, run: Run, task: Task):
    for number in range(3):
        make_run(task, arize_id=f"R{number}", observed_at=ago(900))
    wait(since=ago(58 * 60), until=ago(-30))
    html = text_of(client)
    assert warnings(html) == [f"Key “Production”: {RETRIED} 02:02 UTC."]
    assert html.count("returning errors") == 1
    assert "said-note" not in html


def test_keys_with_the_same_trouble_share_a_warning(client: Client, run: Run, team: Team):
    for name in ("Second", "Third"):
        make_credential(team, name=name, first_contact_done_at=START)
    for name, minutes in (("Production", 10), ("Second", 30)):
        wait(name, since=ago(minutes * 60), until=ago(-30))
    wait("Third", since=ago(86_400), until=ago(-30), reason="The rate limit is reached (429). Try again in 7 seconds.")
    assert warnings(text_of(client)) == [
        f"Keys “Production”, “Second”: {RETRIED} 02:30 UTC.",
        "Key “Third”: The rate limit is reached (429). Retrying automatically since 2026-11-22 03:00 UTC.",
    ]


@pytest.mark.parametrize("url", [TABLE, ALL_TABLES])
def test_an_open_board_learns_that_nothing_is_tried_any_more(url: str, client: Client, run: Run, clock: Any):
    """No round follows the wait, for example because the worker has died: only the clock changes."""
    wait(since=START, until=ago(-5))
    first = poll(client, url)
    for seconds, status in ((4, 304), (60, 304), (2, 200)):
        clock.shift(seconds)
        answer = poll(client, url, first["ETag"])
        assert answer.status_code == status, seconds
    assert "Retrying automatically" in first.content.decode()
    assert "Retrying automatically" not in answer.content.decode()
