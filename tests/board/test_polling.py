"""Polls of the board's table: nothing new is a 304, a change is shown, an ended session leads to sign-in."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.audit import Actor
from taskruns.models import Cancellation, Credential, Membership, Run, Task, Team, User
from taskruns.services import teams
from taskruns.services.runs.observations import record_observation
from tests.clients import ClientOf
from tests.factories import make_run
from tests.runs.readings import reading

BOARD = "/teams/ops-north/runs/"
TABLE = f"{BOARD}table/"


@pytest.fixture
def client(oli: User, credential: Credential, client_of: ClientOf) -> Client:
    return client_of(oli)


@pytest.fixture
def woken(monkeypatch: Any) -> list[Any]:
    woken: list[Any] = []
    monkeypatch.setattr(jobs, "wake", woken.append)
    return woken


def poll(client: Client, etag: str = "", query: str = "") -> Any:
    headers = {"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {})
    return client.get(TABLE + query, headers=headers)


def test_an_unchanged_table_is_a_304_with_the_reading_time(client: Client, run: Run) -> None:
    Credential.objects.update(last_good_at="2026-11-23T03:00:00Z")
    first = poll(client)
    assert first.status_code == 200
    assert first.content.decode().lstrip().startswith('<section id="board-table"')
    assert f'data-etag="{first["ETag"].strip(chr(34))}"' in first.content.decode()
    Credential.objects.update(last_good_at="2026-11-23T03:00:05Z")
    for etag in (first["ETag"], f"W/{first['ETag']}", f'"other", {first["ETag"]}'):
        second = poll(client, etag)
        assert (second.status_code, second.content) == (304, b"")
        assert second["ETag"] == first["ETag"]
        assert (first["X-As-Of"], second["X-As-Of"]) == ("2026-11-23T03:00:00.000Z", "2026-11-23T03:00:05.000Z")
        assert "no-store" in second["Cache-Control"]
        assert "HX-Request" in second["Vary"]


def _observe(run: Run) -> None:
    record_observation(run, reading(run, "COMPLETED"), timezone.now())


def _ask(run: Run) -> None:
    Cancellation.objects.create(run=run, person_label="oli")
    Team.bump(run.team_id)


@pytest.mark.parametrize("change", [_observe, _ask])
def test_a_change_is_a_200_with_another_etag(change: Callable[[Run], None], client: Client, run: Run) -> None:
    first = poll(client)
    change(run)
    second = poll(client, first["ETag"])
    assert second.status_code == 200
    assert second["ETag"] != first["ETag"]
    assert second.content != first.content
    assert poll(client, second["ETag"]).status_code == 304


def test_the_same_data_gives_the_same_row(client: Client, run: Run) -> None:
    with time_machine.travel(timezone.now() + timedelta(hours=1)):
        later = poll(client).content
    assert poll(client).content == later


def test_role_time_zone_and_filter_change_the_etag(client: Client, oli: User, run: Run) -> None:
    etags = [poll(client)["ETag"], poll(client, query="?status=running")["ETag"]]
    User.objects.filter(pk=oli.pk).update(time_zone="Asia/Tokyo")
    etags.append(poll(client)["ETag"])
    Membership.objects.update(role="viewer")
    etags.append(poll(client)["ETag"])
    assert len(set(etags)) == 4
    assert all(poll(client, etag).status_code == 200 for etag in etags[:3])


def test_only_people_who_may_cancel_get_the_button(client: Client, run: Run, ada: User, client_of: ClientOf) -> None:
    assert b"data-cancel>" in poll(client).content
    assert b"data-cancel>" not in poll(client_of(ada)).content


def test_the_page_has_no_etag_and_is_not_cached(client: Client, run: Run) -> None:
    for url in (BOARD, f"{BOARD}{run.pk}/"):
        page = client.get(url)
        assert "ETag" not in page
        assert "no-store" in page["Cache-Control"]
        assert "HX-Request" in page["Vary"]
        assert "Cookie" in page["Vary"]


@pytest.mark.parametrize("url", [TABLE, f"{BOARD}{{run}}/"])
def test_an_ended_session_redirects_and_shows_no_table(url: str, client: Client, run: Run) -> None:
    client.logout()
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://testserver{BOARD}?status=failed"}
    page = client.get(url.format(run=run.pk), headers=headers)
    assert (page.status_code, page.content) == (401, b"")
    assert page["HX-Redirect"].startswith("/accounts/login/?next=%2Fteams%2Fops-north%2Fruns%2F%3Fstatus%3Dfailed")
    plain = client.get(BOARD)
    assert (plain.status_code, plain.url) == (302, "/accounts/login/?next=%2Fteams%2Fops-north%2Fruns%2F")


def test_an_ended_session_is_also_reported_on_a_cancel(client: Client, run: Run) -> None:
    client.logout()
    page = client.post(f"{BOARD}{run.pk}/cancel/", {"confirmed": "1"}, headers={"HX-Request": "true"})
    assert page.status_code == 401
    assert page["HX-Redirect"].startswith("/accounts/login/")


def test_attention_is_written_at_most_every_five_seconds(client: Client, team: Team, woken: list[Any]) -> None:
    start = timezone.now()
    marks = []
    with time_machine.travel(start, tick=False) as clock:
        for second in range(12):
            clock.move_to(start + timedelta(seconds=second))
            poll(client)
            team.refresh_from_db()
            assert team.watched_at is not None
            marks.append(round((team.watched_at - start).total_seconds()))
    assert marks == [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10, 10]


def test_the_first_view_wakes_the_keys_and_later_ones_do_not(
    client: Client, credential: Credential, woken: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    start = timezone.now()
    Credential.objects.update(next_refresh_at=start + timedelta(minutes=5))
    with time_machine.travel(start, tick=False) as clock:
        for second, wakes in ((0, 1), (1, 1), (6, 1), (12, 1), (40, 2)):
            clock.move_to(start + timedelta(seconds=second))
            with django_capture_on_commit_callbacks(execute=True):
                poll(client)
            assert len(woken) == wakes, second
            Credential.objects.update(next_refresh_at=timezone.now() + timedelta(minutes=5))
    assert set(woken) == {credential.pk}


def test_a_304_records_attention_too(client: Client, team: Team, woken: list[Any]) -> None:
    etag = poll(client)["ETag"]
    Team.objects.update(watched_at=None)
    assert poll(client, etag).status_code == 304
    team.refresh_from_db()
    assert team.watched_at is not None


def test_a_failing_queue_does_not_break_the_board(
    client: Client, run: Run, monkeypatch: Any, django_capture_on_commit_callbacks: Any
) -> None:
    def broken(*_: Any) -> None:
        calls.append(1)
        raise ConnectionError("no queue")

    calls: list[int] = []
    Credential.objects.update(next_refresh_at=timezone.now() + timedelta(minutes=5))
    monkeypatch.setattr("taskruns.jobs.refresh_credential", broken)
    with django_capture_on_commit_callbacks(execute=True):
        assert client.get(BOARD).status_code == 200
    assert calls == [1]


def test_a_waiting_or_failing_key_is_named_above_the_table(client: Client, task: Task, run: Run) -> None:
    Credential.objects.update(first_contact_done_at=timezone.now())
    assert b"notice-" not in poll(client).content
    Credential.objects.update(backoff_until=timezone.now() + timedelta(minutes=1), backoff_reason="Wait a little.")
    assert "Key “Production”: Wait a little." in poll(client).content.decode()
    Credential.objects.update(failing_since=timezone.now(), failing_reason="Not accepted.")
    assert "Key “Production”: Not accepted." in poll(client).content.decode()


def test_a_run_with_hardly_any_data_has_a_row(client: Client, task: Task) -> None:
    run = make_run(task, arize_id="bare", run_started_at=None, raw_status="")
    Run.objects.filter(pk=run.pk).update(created_at=None)
    assert b'data-run-id="bare"' in poll(client).content


def drawn_for(page: Any) -> dict[str, str]:
    """The headers that htmx sends with each request of an open page."""
    (headers,) = re.findall(r"hx-headers='([^']*)'", page.content.decode())
    return {"HX-Request": "true", **json.loads(headers)}


def test_a_page_of_another_person_reloads_at_its_next_poll(client: Client, run: Run, vera: User) -> None:
    """A tab stays open while another person signs in with the same browser."""
    olis_tab = drawn_for(client.get(BOARD))
    assert client.get(TABLE, headers=olis_tab).status_code == 200, "the control"
    client.force_login(vera, backend="allauth.account.auth_backends.AuthenticationBackend")
    pages = (TABLE, f"{BOARD}{run.pk}/", f"/teams/ops-north/tasks/{run.task_id}/", "/runs/table/")
    for page in pages:
        answer = client.get(page, headers=olis_tab)
        assert (answer.status_code, answer["HX-Refresh"], answer.content) == (204, "true", b""), page
        assert "no-store" in answer["Cache-Control"]
    veras_tab = drawn_for(client.get(BOARD))
    for page in pages:
        assert client.get(page, headers=veras_tab).status_code == 200


def test_an_open_page_without_a_session_still_leads_to_sign_in(client: Client, run: Run) -> None:
    tab = drawn_for(client.get(BOARD))
    client.logout()
    assert client.get(TABLE, headers=tab)["HX-Redirect"].startswith("/accounts/login/")


@pytest.mark.parametrize("query", ["?min_duration=600", "?sort=-duration"])
def test_time_alone_changes_a_board_of_durations(client: Client, task: Task, query: str) -> None:
    """A run that is stuck changes nothing but its age."""
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        started = timezone.now() - timedelta(seconds=590)
        run = make_run(task, run_started_at=started, created_at=started)
        first = poll(client, query=query)
        assert poll(client, first["ETag"], query).status_code == 304, "the control"
        clock.shift(timedelta(seconds=15))
        second = poll(client, first["ETag"], query)
        assert (second.status_code, f"run-{run.pk}" in second.content.decode()) == (200, True)


def test_a_new_name_of_the_team_reaches_open_boards(client: Client, team: Team, run: Run) -> None:
    etag = poll(client)["ETag"]
    teams.rename(team, name="Ops Far North", by=Actor.command())
    assert poll(client, etag).status_code == 200
