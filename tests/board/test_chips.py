"""Above the board's rows: the counts that filter, the filters that are set, and the form's times."""

import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from django.test import Client

from taskruns.models import Credential, Membership, Run, Status, Task, Team, TeamRole, User
from tests.clients import ClientOf
from tests.factories import make_credential, make_run
from tests.markup import without_bdi
from tests.wire import ENDPOINT

NOW = datetime.fromisoformat("2026-11-23T03:00:00+00:00")
BOARD, TABLE = "/teams/ops-north/runs/", "/teams/ops-north/runs/table/"
ALL_BOARDS, ALL_TABLES = "/runs/", "/runs/table/"
ALWAYS = ["pending", "running", "failed", "with_errors", "longer_than_usual", "cancelled"]


@pytest.fixture(autouse=True)
def clock() -> Any:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


def ended(task: Task, status: Status, *, hours: float, **fields: Any) -> Run:
    at = NOW - timedelta(hours=hours)
    created = at - timedelta(minutes=5)
    return make_run(task, status=status, created_at=created, run_finished_at=at, **fields)


def html_of(client: Client, url: str = BOARD) -> str:
    page = client.get(url)
    assert page.status_code == 200
    return str(page.content.decode())


def chips(html: str) -> dict[str, tuple[str, str, bool]]:
    """Value -> count, link, whether it is set."""
    found = re.findall(r'<a id="chip-(\w+)"([^>]*)>(.*?)</a>', html, re.DOTALL)
    return {
        value: (
            re.findall(r"<b[^>]*>([^<]*)</b>", content)[0],
            re.findall(r'href="([^"]*)"', tag)[0].replace("&amp;", "&"),
            'aria-current="true"' in tag,
        )
        for value, tag, content in found
    }


def counts(html: str) -> dict[str, str]:
    return {value: count for value, (count, _, _) in chips(html).items()}


def test_chips_count_active_runs_and_those_that_ended_in_a_day(client: Client, task: Task):
    for status in (Status.PENDING, Status.RUNNING, Status.RUNNING):
        make_run(task, status=status)
    ended(task, Status.FAILED, hours=1, with_errors=True)
    ended(task, Status.FAILED, hours=23)
    ended(task, Status.FAILED, hours=25)
    ended(task, Status.COMPLETED, hours=2, with_errors=True, longer_than_usual=True)
    expected = {
        "pending": "1", "running": "2", "failed": "2", "with_errors": "2", "longer_than_usual": "1", "cancelled": "0",
    }  # fmt: skip
    assert counts(html_of(client)) == counts(html_of(client, TABLE)) == counts(html_of(client, ALL_BOARDS)) == expected
    assert "ended: last 24 h" in html_of(client)


def test_a_chip_adds_and_removes_itself_and_keeps_the_other_filters(client: Client, task: Task):
    html = html_of(client, f"{BOARD}?status=running&flag=with_errors&type=run_experiment&sort=-errors")
    found = chips(html)
    assert [value for value, (_, _, is_set) in found.items() if is_set] == ["running", "with_errors"]
    queries = {value: parse_qs(urlsplit(url).query) for value, (_, url, _) in found.items()}
    kept = {"type": ["run_experiment"], "sort": ["-errors"]}
    assert queries["failed"] == kept | {"status": ["failed", "running"], "flag": ["with_errors"]}
    assert queries["running"] == kept | {"flag": ["with_errors"]}
    assert queries["with_errors"] == kept | {"status": ["running"]}
    last = chips(html_of(client, f"{BOARD}?status=running"))["running"]
    assert last[1] == f"{BOARD}?all=1", "without a query it would open the default view"
    assert "cursor" not in html.split('id="board-chips"')[1].split("</nav>")[0]


def test_rare_chips_appear_with_their_first_run_or_when_set(client: Client, task: Task):
    assert list(counts(html_of(client))) == ALWAYS
    make_run(task, status=Status.PENDING, pending_long=True)
    make_run(task, status=Status.UNKNOWN)
    assert list(counts(html_of(client))) == [*ALWAYS, "pending_long", "unknown"]
    query = "?status=completed&flag=attention"
    shown = ["completed", "attention", *ALWAYS, "pending_long", "unknown"]
    assert list(counts(html_of(client, BOARD + query))) == shown


@pytest.mark.parametrize("url", [TABLE, ALL_TABLES])
def test_an_open_board_never_shows_an_old_count(url: str, client: Client, task: Task, clock: Any):
    """A run leaves the last 24 hours, and no data changes."""
    Credential.objects.update(last_good_at=NOW, first_contact_done_at=NOW)
    ended(task, Status.FAILED, hours=23.9)
    ended(task, Status.FAILED, hours=1)
    etag, seen = "", ""
    said = []
    for minutes in range(13):
        clock.move_to(NOW + timedelta(minutes=minutes))
        Credential.objects.update(last_good_at=NOW + timedelta(minutes=minutes))
        answer = client.get(url, headers={"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {}))
        now = counts(html_of(client, url))["failed"]
        seen = now if answer.status_code == 200 else seen
        assert seen == now, minutes
        etag = answer["ETag"]
        said.append(answer.status_code)
    assert seen == "1"
    assert said.count(304) > 8, "the control: most polls are free"


def test_several_teams_are_counted_together(client: Client, task: Task, other_team: Team, vera: User):
    Membership.objects.create(team=other_team, user=vera, role=TeamRole.VIEWER)
    theirs = Task.objects.create(
        team=other_team, endpoint=ENDPOINT, credential=make_credential(other_team), arize_id="T", name="Theirs"
    )
    for each in (task, theirs):
        make_run(each)
        ended(each, Status.FAILED, hours=1, with_errors=True)
    found = counts(html_of(client, ALL_BOARDS))
    assert (found["running"], found["failed"], found["with_errors"]) == ("2", "2", "2")
    assert counts(html_of(client))["running"] == "1", "the control"


# --- Filters that are set


def removable(html: str) -> dict[str, str]:
    """`name value` -> the query of the board without it."""
    found = re.findall(r'<a href="([^"]*)" title="Remove this filter">(.*?)</a>', without_bdi(html), re.DOTALL)
    return {
        " ".join(re.sub(r"<[^>]*>", " ", text).split()): urlsplit(url.replace("&amp;", "&")).query
        for url, text in found
    }


def test_each_filter_can_be_removed_by_its_link(client: Client, task: Task, credential: Credential):
    query = f"task={task.arize_id}&credential={credential.pk}&q=abc&min_duration=90&started_after=2026-11-23T01:00:00Z"
    found = removable(html_of(client, f"{BOARD}?{query}&status=failed&min_error_share=20"))
    assert set(found) == {
        f"task {task.name}",
        f"key {credential.name}",
        "search abc",
        "longer than 90 s",
        "errors at least 20 %",
        "started after 2026-11-23 01:00:00 UTC",
    }
    left = parse_qs(found["search abc"])
    assert "q" not in left
    assert left["task"] == [task.arize_id]
    assert left["status"] == ["failed"]


def test_a_task_can_be_excluded_instead(client: Client, task: Task):
    make_run(task)
    html = html_of(client, f"{BOARD}?task={task.arize_id}")
    (url,) = re.findall(r'<a href="([^"]*)">all except it</a>', html)
    assert parse_qs(urlsplit(url.replace("&amp;", "&")).query) == {"not_task": [task.arize_id]}
    excluded = html_of(client, url.replace("&amp;", "&"))
    assert 'id="board-rows"' not in excluded
    assert f"not task {task.name}" in removable(excluded)
    assert f'<input type="hidden" name="not_task" value="{task.arize_id}">' in excluded


def test_without_a_filter_there_is_nothing_to_remove(client: Client, task: Task):
    assert "set-filters" not in html_of(client)
    assert "set-filters" in html_of(client, f"{BOARD}?status=failed")


# --- The form


def test_times_of_the_form_are_in_the_persons_zone(client: Client, vera: User, task: Task):
    User.objects.filter(pk=vera.pk).update(time_zone="Asia/Tokyo")
    sent = "q=&task=&status=failed&started_after_local=2026-11-23T09:30&started_before_local=&min_duration="
    answer = client.get(f"{BOARD}?{sent}")
    assert (answer.status_code, answer.url) == (302, f"{BOARD}?status=failed&started_after=2026-11-23T00%3A30%3A00Z")
    html = html_of(client, answer.url)
    assert 'name="started_after_local" value="2026-11-23T09:30"' in html.replace("\n    ", " ")
    assert "started after 2026-11-23 09:30:00 JST" in removable(html)
    assert "(Asia/Tokyo)" in html


def test_an_empty_form_leads_to_all_runs(client: Client, task: Task):
    answer = client.get(f"{BOARD}?q=&started_after_local=&ended_before_local=")
    assert (answer.status_code, answer.url) == (302, f"{BOARD}?all=1")
    assert client.get(f"{ALL_BOARDS}?q=&started_after_local=").url == f"{ALL_BOARDS}?all=1"


@pytest.mark.parametrize("name", ["started_after", "started_before", "ended_after", "ended_before"])
@pytest.mark.parametrize("value", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_the_first_and_the_last_moment_are_shown_in_each_zone(
    name: str, value: str, zone: str, client: Client, vera: User, task: Task
):
    User.objects.filter(pk=vera.pk).update(time_zone=zone)
    assert client.get(BOARD, {name: value}).status_code == 200


@pytest.mark.parametrize("value", ["yesterday", "0001-01-01T00:00", "9999-12-31T23:59:59", "2026-11-23T03:00+99:00"])
def test_a_time_that_does_not_exist_is_a_400_or_a_time(value: str, client: Client, vera: User, task: Task):
    User.objects.filter(pk=vera.pk).update(time_zone="Asia/Tokyo")
    answer = client.get(BOARD, {"started_after_local": value})
    assert answer.status_code in {302, 400}
    if answer.status_code == 400:
        assert "“started_after” must be a time like 2026-11-23T03:00" in answer.content.decode()


# --- Views


def tabs(html: str) -> list[tuple[str, bool]]:
    bar = without_bdi(html).split('id="view-bar"')[1].split("</nav>")[0]
    links = re.findall(r"<a ([^>]*)>(.*?)</a>", bar, re.DOTALL)
    return [(" ".join(re.sub("<[^>]*>", "", text).split()), "aria-current" in tag) for tag, text in links]


@pytest.mark.parametrize("url", [BOARD, ALL_BOARDS])
def test_the_built_in_views_are_tabs(url: str, client: Client, task: Task):
    assert tabs(html_of(client, f"{url}?all=1")) == [("All runs", True), ("Needs attention", False)]
    worst = html_of(client, f"{url}?flag=attention&sort=attention")
    assert tabs(worst) == [("All runs", False), ("Needs attention", True)]
    assert "Save this view" not in worst, "it is a view already"


def test_a_filter_that_is_no_view_yet_can_be_saved(client: Client, task: Task):
    assert "Save this view" in html_of(client, f"{BOARD}?status=failed")
    assert "Save this view" not in html_of(client)
    assert "Save this view" not in html_of(client, f"{ALL_BOARDS}?status=failed")


# --- All teams


def test_runs_of_each_team_are_selected_for_its_own_bulk_cancel(
    team: Team, other_team: Team, oli: User, task: Task, client_of: ClientOf
):
    Membership.objects.create(team=other_team, user=oli, role=TeamRole.VIEWER)
    theirs = Task.objects.create(
        team=other_team, endpoint=ENDPOINT, credential=make_credential(other_team), arize_id="T", name="Theirs"
    )
    ours, not_ours = make_run(task), make_run(theirs)
    client = client_of(oli)
    html = html_of(client, ALL_BOARDS)
    assert re.findall(r'name="run" value="([^"]+)"', html) == [str(ours.pk)], "a viewer selects nothing"
    buttons = r'solid small" formaction="([^"]+)" data-many="cancel"\s+data-team="([^"]+)"'
    assert re.findall(buttons, html) == [("/teams/ops-north/batches/", "ops-north")]
    assert f'id="run-{not_ours.pk}"' in html
    Membership.objects.filter(team=other_team, user=oli).update(role=TeamRole.OPERATOR)
    both = html_of(client, ALL_BOARDS)
    assert len(re.findall(r'name="run" value=', both)) == 2
    assert sorted(slug for _, slug in re.findall(buttons, both)) == ["ops-north", "ops-south"]
    form = both.split('id="board"')[1]
    first = re.search(r"<button[^>]*>", form)
    assert first
    assert "batches/" in first[0], "Enter in a checkbox clicks it"


def test_all_teams_have_a_chart_and_a_csv_for_each_team(client: Client, task: Task):
    make_run(task, status=Status.COMPLETED, created_at=NOW - timedelta(minutes=90))
    html = html_of(client, f"{ALL_BOARDS}?status=completed")
    assert 'id="board-hours"' in html
    assert "/teams/ops-north/runs/export/?status=completed" in html
    page = html_of(client, "/runs/chart/?status=completed")
    assert "Last 24 hours: 1 completed." in page
    assert "Filtered runs." in page
