"""The board: order, pages, filters, empty boards, and the fragment that polls."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.forms import Cursor
from taskruns.models import ArizeUser, Credential, Membership, Run, Status, Task, Team, TeamRole, User
from taskruns.pages.board.page import PAGE
from tests.clients import ClientOf
from tests.factories import make_credential, make_run
from tests.markup import without_bdi
from tests.wire import ENDPOINT

BOARD = "/teams/ops-north/runs/"
BASE = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def rows(html: str) -> list[str]:
    return re.findall(r'<tr id="run-[0-9a-f-]+"[^>]* data-run-id="([^"]*)"', html)


def shown(client: Client, **query: Any) -> list[str]:
    page = client.get(BOARD + (f"?{urlencode(query, doseq=True)}" if query else ""))
    assert page.status_code == 200, page.content.decode()
    return rows(page.content.decode())


def next_of(html: str) -> str | None:
    found = re.search(r'href="([^"]+)" rel="next"', html)
    return found[1].replace("&amp;", "&") if found else None


def at(seconds: int) -> datetime:
    return BASE + timedelta(seconds=seconds)


def pages(client: Client, url: str = BOARD) -> Iterator[list[str]]:
    following: str | None = url
    while following:
        html = client.get(following).content.decode()
        yield rows(html)
        following = next_of(html)


def fill(task: Task, count: int, *, active: int = 0, moments: Callable[[int], datetime] = at) -> None:
    for number in range(count):
        status = Status.RUNNING if number < active else Status.COMPLETED
        make_run(task, arize_id=f"R{number:03}", status=status, created_at=moments(number))


def test_active_runs_come_first_then_the_newest(client: Client, task: Task) -> None:
    for number, status in enumerate(Status):
        make_run(task, arize_id=status.value, status=status, created_at=at(number))
    assert shown(client) == ["running", "pending", "gone", "unknown", "cancelled", "failed", "completed"]


@pytest.mark.parametrize("active", [0, 30, PAGE, PAGE + 1, 75, 130])
@pytest.mark.parametrize("apart", [0, 1])
def test_pages_show_every_run_once(apart: int, active: int, client: Client, task: Task) -> None:
    fill(task, 130, active=active, moments=lambda number: at(apart * (number // 3)))
    found = list(pages(client))
    assert [len(page) for page in found] == [PAGE, PAGE, 30]
    assert len({run for page in found for run in page}) == 130
    assert all(int(run[1:]) < active for run in [run for page in found for run in page][:active])


def test_a_full_last_page_has_no_next_link(client: Client, task: Task) -> None:
    fill(task, PAGE)
    assert [len(page) for page in pages(client)] == [PAGE]


def test_new_runs_neither_shift_nor_repeat_older_pages(client: Client, task: Task) -> None:
    fill(task, 120, active=60)
    before, seen = {f"R{number:03}" for number in range(120)}, []
    for number, page in enumerate(pages(client)):
        seen += page
        for newer in range(7):
            created = at(1000 + newer)
            make_run(
                task,
                arize_id=f"new-{number}-{newer}",
                status=[Status.RUNNING, Status.FAILED][newer % 2],
                created_at=created,
            )
    old = [run for run in seen if run in before]
    assert sorted(old) == sorted(before)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.tuples(st.sampled_from(list(Status)), st.integers(0, 3)), max_size=40), size=st.integers(1, 9))
def test_pages_of_any_size_show_every_run_once_in_order(
    runs: Any, size: int, client: Client, task: Task, monkeypatch: Any
) -> None:
    monkeypatch.setattr("taskruns.pages.board.page.PAGE", size)
    Run.objects.all().delete()
    for status, second in runs:
        make_run(task, status=status, created_at=at(second))
    seen = [run for page in pages(client) for run in page]
    order = Run.objects.order_by("-rank", "-sorted_at", "-pk").values_list("arize_id", flat=True)
    assert seen == list(order)


def test_page_links_keep_the_filters(client: Client, task: Task) -> None:
    fill(task, PAGE + 5)
    make_run(task, arize_id="other", status=Status.FAILED)
    html = client.get(f"{BOARD}?status=completed&q=relevance").content.decode()
    query = parse_qs(urlsplit(next_of(html) or "").query)
    assert (query["status"], query["q"]) == (["completed"], ["relevance"])
    assert len(rows(client.get(next_of(html) or "").content.decode())) == 5


def test_filters_select_by_status_and_task(client: Client, task: Task) -> None:
    second = Task.objects.create(
        team=task.team, endpoint=ENDPOINT, arize_id="T2=", name="Toxicity", credential=task.credential
    )
    for number, status in enumerate((Status.RUNNING, Status.FAILED, Status.COMPLETED)):
        make_run(task, arize_id=f"a-{status}", status=status, created_at=at(number))
        make_run(second, arize_id=f"b-{status}", status=status, created_at=at(number))
    assert len(shown(client)) == 6
    assert len(shown(client, status="")) == 6
    assert sorted(shown(client, status="failed")) == ["a-failed", "b-failed"]
    assert sorted(shown(client, status=["failed", "running"], task="T2=")) == ["b-failed", "b-running"]
    assert shown(client, task="T3") == []
    assert sorted(shown(client, q="oxic")) == sorted(shown(client, task="T2="))
    assert sorted(shown(client, q="TOXICITY", status="completed", colour="red")) == ["b-completed"]


def test_a_search_matches_parts_of_task_names_and_of_ids(client: Client, task: Task) -> None:
    make_run(task, arize_id="VGFza1J1bjo5", experiment_id="RXhwZXJpbWVudDox")
    for q in ("VGFza1", "RXhwZ", "relevance", " relevance ", "VGFza1J1bjo5", "Fza1J1", "wZXJpb"):
        assert shown(client, q=q) == ["VGFza1J1bjo5"], q
    for q in ("GFza1K", "wZXJi0", "irrelevance"):
        assert shown(client, q=q) == [], q


@pytest.mark.parametrize("wild", ["%", "_", "\\", "a%", "100_"])
def test_database_wildcards_are_plain_characters(wild: str, client: Client, task: Task) -> None:
    make_run(task, arize_id="100x-plain")
    assert shown(client, q="100x") == ["100x-plain"]
    assert shown(client, q=wild) == []
    Task.objects.update(name=f"before {wild} after")
    assert shown(client, q=wild) == ["100x-plain"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("status=sleeping", "There is no status “sleeping”"),
        ("status=RUNNING", "There is no status “RUNNING”"),
        ("status=running&status=%00", "There is no status"),
        ("q=%00", "cannot be searched for"),
        ("task=a%0Ab", "cannot be searched for"),
        (f"q={'x' * 201}", "longer than 200"),
        ("cursor=nonsense", "page link is damaged"),
        ("cursor=WzEsICJub3ciLCAiMSJd", "page link is damaged"),
        ("cursor=" + "W1tb" * 3000, "page link is damaged"),
        ("cursor=%F0%9F%98%80", "page link is damaged"),
        (f"cursor={Cursor(2, 0, UUID(int=7)).text()}", "page link is damaged"),
    ],
)
@pytest.mark.parametrize("url", [BOARD, f"{BOARD}table/"])
def test_an_invalid_filter_is_a_400_with_an_explanation(url: str, query: str, words: str, client: Client) -> None:
    page = client.get(f"{url}?{query}", headers={"HX-Request": "true"} if "table" in url else {})
    assert page.status_code == 400
    assert words in page.content.decode()
    assert client.get(f"{url}?status=running").status_code == 200


def test_longest_filters_and_unknown_parameters_work(client: Client, task: Task) -> None:
    assert shown(client, q="x" * 200, task="y" * 500, status=list(Status.values), colour="red") == []


def test_the_number_of_queries_does_not_grow_with_the_runs(client: Client, task: Task) -> None:
    def queries(url: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(url).status_code == 200
        return len(captured)

    fill(task, PAGE + 3, active=1)
    Run.objects.update(created_by_user_id="U0")
    client.get(BOARD)
    few = queries(BOARD), queries(f"{BOARD}table/")
    second = Task.objects.create(team=task.team, endpoint=ENDPOINT, arize_id="T2", credential=task.credential)
    for number in range(60):
        status = Status.RUNNING if number < 20 else Status.FAILED
        make_run(second, arize_id=f"S{number}", status=status, created_by_user_id=f"U{number}")
        ArizeUser.objects.create(team=task.team, endpoint=ENDPOINT, arize_id=f"U{number}", name="Nora", known=True)
    assert (queries(BOARD), queries(f"{BOARD}table/")) == few
    assert max(few) <= 14


def test_a_row_names_the_person_who_triggered_the_run_if_known(client: Client, task: Task) -> None:
    def by() -> str:
        (label,) = re.findall(r'<span class="by"[^>]*>(.*?)</span>', without_bdi(client.get(BOARD).content.decode()))
        return str(label)

    run = make_run(task)
    assert 'class="by"' not in client.get(BOARD).content.decode(), "the schedule started it"
    Run.objects.update(created_by_user_id="VXNlcjox")
    assert by() == "by <code>VXNlcjox</code>"
    ArizeUser.objects.create(team=run.team, endpoint=ENDPOINT, arize_id="VXNlcjox", name="Nora <b>", known=True)
    assert by() == "by Nora &lt;b&gt;"


def test_runs_of_another_team_are_absent(
    client: Client, task: Task, other_team: Team, otto: User, client_of: ClientOf
) -> None:
    make_run(task, arize_id="ours")
    theirs = Task.objects.create(team=other_team, endpoint=ENDPOINT, arize_id=task.arize_id)
    make_run(theirs, arize_id="theirs")
    assert shown(client) == ["ours"]
    html = client_of(otto).get("/teams/ops-south/runs/").content.decode()
    assert rows(html) == ["theirs"]
    assert client_of(otto).get(BOARD).status_code == 404


def kind(client: Client, query: str = "") -> str:
    html = client.get(BOARD + query).content.decode()
    return "".join(re.findall(r'id="board-empty"[^>]*data-kind="(\w+)"', html))


def test_an_empty_board_says_why(vera: User, mona: User, client_of: ClientOf, team: Team) -> None:
    looks_on, manages = client_of(vera), client_of(mona)
    assert kind(looks_on) == kind(manages) == "no_key"
    assert f"{BOARD[:-5]}credentials/new/" in manages.get(BOARD).content.decode()
    assert "credentials/new/" not in looks_on.get(BOARD).content.decode()
    key = Credential(team=team, name="Production", endpoint=ENDPOINT)
    key.encrypt_secret("ak-0123456789")
    key.save()
    assert kind(looks_on) == "no_runs"
    assert kind(looks_on, "?status=failed") == "filtered"
    Credential.objects.update(failing_since=timezone.now(), failing_reason="Arize does not accept it.")
    assert kind(looks_on) == "key_failing"
    assert "Arize does not accept it." in looks_on.get(BOARD).content.decode()
    Credential.objects.update(failing_since=None, last_good_at=timezone.now())
    assert kind(looks_on) == "no_runs"
    make_run(Task.objects.create(team=team, endpoint=ENDPOINT, arize_id="T1", credential=key))
    assert kind(looks_on) == ""


@pytest.mark.parametrize("name", ["\U0001f469\u200d\U0001f52c lab", "\u202babgd"])
def test_names_with_joiners_and_direction_marks_are_found(name: str, client: Client, task: Task) -> None:
    Task.objects.filter(pk=task.pk).update(name=name)
    make_run(task, arize_id="marked")
    assert shown(client, q=name) == ["marked"]


@pytest.mark.parametrize("query", ["", "?status=running", "?sort=-duration", "?sort=errors"])
def test_more_teams_need_no_more_queries_on_the_board_of_all_teams(
    query: str, team: Team, vera: User, client_of: ClientOf
) -> None:
    client = client_of(vera)

    def queries(teams: int) -> int:
        for number in range(Team.objects.count(), teams):
            more = Team.objects.create(slug=f"team-{number}", name=f"Team {number}")
            Membership.objects.create(team=more, user=vera, role=TeamRole.VIEWER)
            key = make_credential(more)
            make_run(Task.objects.create(team=more, endpoint=ENDPOINT, credential=key, arize_id="T", name="Judge"))
        client.get(f"/runs/{query}")
        with CaptureQueriesContext(connection) as captured:
            page = client.get(f"/runs/{query}").content.decode()
        assert len(rows(page)) == teams - 1
        return len(captured)

    assert queries(3) == queries(20)


def test_equal_task_names_are_told_apart_in_the_filter(client: Client, task: Task) -> None:
    mine = {"team": task.team, "endpoint": ENDPOINT, "credential": task.credential, "name": task.name}
    Task.objects.create(**mine, arize_id="VGFzazo3Onh5eg==", space_name="search")
    Task.objects.create(**mine | {"name": "n" * 3_000}, arize_id="long")
    html = client.get(BOARD).content.decode()
    words = re.findall(r"<option[^>]*>([^<]*)</option>", html.split('id="filter-task"')[1].split("</select>")[0])
    assert f"{task.name} · support-bot · …{task.arize_id[-8:]}" in words
    assert f"{task.name} · search · …Onh5eg==" in words
    assert max(map(len, words)) <= 200, "a long name does not fill the list"
