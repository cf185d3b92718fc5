"""The page of an active stop: how far its cancels are, who pulled it and until when, and the lift folded below."""

from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns.models import BatchSource, CancelItem, EmergencyStop, ItemState, Outcome, Run, Task, Team, User
from taskruns.pages.stops import until_words
from taskruns.services import batches
from tests.clients import ClientOf
from tests.factories import actor, make_run

PAGE = "/teams/ops-north/stop/"


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)


@pytest.fixture
def stop(team: Team, oli: User) -> EmergencyStop:
    return EmergencyStop.objects.create(team=team, person=oli, person_label=oli.email, reason="bad <b>model</b>")


def batch_with(stop: EmergencyStop, oli: User, states: dict[Run, str]) -> None:
    ids = [run.pk for run in states]
    made = batches.create_batch(stop.team, run_ids=ids, reason="x", by=actor(oli), source=BatchSource.STOP, stop=stop)
    for run, state in states.items():
        CancelItem.objects.filter(batch=made, run=run).update(state=state)


def shown(client: Client, query: str = "", **headers: str) -> str:
    answer = client.get(f"{PAGE}{query}", headers=headers)
    assert answer.status_code == 200
    assert "HX-Request" in answer["Vary"]
    return " ".join(answer.content.decode().split())


def test_the_progress_comes_first_and_counts_each_run_once(
    client: Client, task: Task, stop: EmergencyStop, oli: User
) -> None:
    runs = [make_run(task) for _ in range(5)]
    outcomes = [Outcome.REFUSED, Outcome.CONFIRMED, Outcome.FINISHED_FIRST, ItemState.QUEUED, Outcome.REFUSED]
    batch_with(stop, oli, dict(zip(runs, outcomes, strict=True)))
    batch_with(stop, oli, {runs[0]: ItemState.SENT})
    html = shown(client)
    assert "1 cancelled, 2 in progress, 1 not stopped, 1 finished first." in html
    assert 'max="5" value="3"' in html
    assert html.index('id="stop-progress"') < html.index('id="lift"') < html.index("stop-tasks")
    assert 'hx-trigger="every 2s, refresh"' in html
    assert '<details id="lift" class="panel stop-lift" data-parts>' in html, "the lift is folded"
    assert '<details id="lift" class="panel stop-lift" data-parts open>' in shown(client, "?lift")


def test_the_progress_polls_as_a_fragment_until_the_stop_ends(
    client: Client, task: Task, stop: EmergencyStop, oli: User
) -> None:
    batch_with(stop, oli, {make_run(task): Outcome.CONFIRMED})
    fragment = shown(client, **{"HX-Request": "true"})
    assert fragment.startswith('<section id="stop-progress"')
    assert 'hx-trigger="every 5s, refresh"' in fragment, "new runs may still be cancelled"
    EmergencyStop.objects.update(end="lifted")
    over = shown(client, **{"HX-Request": "true"})
    assert "The emergency stop has ended." in over
    assert "hx-trigger" not in over
    assert 'id="stop-standing"' in fragment
    assert '<div id="stop-banner" data-parts hx-swap-oob="rows"> </div>' in over, "the banner disappears too"
    assert '<div id="stop-active" data-parts hx-swap-oob="rows"> </div>' in over


def test_the_list_of_active_runs_polls_with_the_progress(
    client: Client, task: Task, stop: EmergencyStop, oli: User
) -> None:
    run = make_run(task)
    batch_with(stop, oli, {run: ItemState.SENT})
    assert "1 running" in shown(client, **{"HX-Request": "true"})
    run.status = "cancelled"
    run.save()
    assert "1 running" not in shown(client, **{"HX-Request": "true"})


def test_what_lifting_does_is_polled_too(client: Client, task: Task, stop: EmergencyStop, oli: User) -> None:
    """With the page of a moment ago, one would lift it on other grounds."""
    batch_with(stop, oli, {make_run(task): ItemState.QUEUED})
    headers = {"HX-Request": "true"}
    fragment = " ".join(client.get(PAGE, headers=headers).content.decode().split())
    assert 'id="stop-lift" data-parts hx-swap-oob="rows"' in fragment
    assert "1 queued cancel will be dropped; that run keeps running." in fragment
    CancelItem.objects.update(state=Outcome.CONFIRMED)
    assert "No cancel is waiting to be sent." in client.get(PAGE, headers=headers).content.decode()
    EmergencyStop.objects.update(end="lifted")
    over = client.get(PAGE, headers=headers).content.decode()
    assert ("Lift the stop" in over, 'id="stop-others" data-parts hx-swap-oob="rows"></div>' in over) == (False, True)


def test_enter_without_a_script_only_asks(client: Client, task: Task, team: Team) -> None:
    answer = client.post(PAGE, {"reason": "why", "ask": "1"})
    assert "Nothing was stopped yet." in answer.content.decode()
    assert 'value="why"' in answer.content.decode()
    assert not EmergencyStop.objects.exists()


def test_a_stop_without_runs_says_so_and_names_its_end(client: Client, vera: User, client_of: ClientOf) -> None:
    with time_machine.travel("2026-11-23T18:46:30Z", tick=False):
        EmergencyStop.objects.create(team=Team.objects.get(), person_label="mona@example.com", reason="why")
        html = shown(client_of(vera))
    assert "Nothing to cancel so far." in html
    assert "ends tomorrow at 18:46 UTC unless lifted." in html
    assert "A manager or the person who pulled it can lift it." in html
    assert 'id="lift"' not in html


@pytest.mark.parametrize(
    ("zone", "hours", "text"),
    [
        ("UTC", 1, "today at 19:00 UTC"),
        ("UTC", 24, "tomorrow at 18:00 UTC"),
        ("UTC", 48, "on 2026-11-25 at 18:00 UTC"),
        ("Asia/Tokyo", 1, "today at 04:00 JST"),
        ("Europe/Berlin", 6, "tomorrow at 01:00 CET"),
    ],
)
def test_the_end_is_named_in_the_persons_zone(zone: str, hours: int, text: str) -> None:
    with time_machine.travel("2026-11-23T18:00:00Z", tick=False), timezone.override(zone):
        assert until_words(timezone.now() + timedelta(hours=hours)) == text


def test_hostile_reasons_and_names_are_only_text(client: Client, task: Task, stop: EmergencyStop, oli: User) -> None:
    Task.objects.update(name="<script>alert(1)</script>")
    EmergencyStop.objects.update(person_label="<img src=x>")
    batch_with(stop, oli, {make_run(task): Outcome.REFUSED})
    html = shown(client)
    assert "&lt;img src=x&gt;" in html
    assert "<img src=x>" not in html
    assert "<script>alert" not in html
