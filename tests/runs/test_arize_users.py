"""The name of the person who triggered a run: read at the end of a round if Arize allows it."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import NotFound, Unreadable
from taskruns.arize.wire import WireUser
from taskruns.models import ArizeUser, Credential, Run, Task, Team, User
from taskruns.pages.board.rows import with_creators
from taskruns.services.mirror import refresh
from tests.clients import ClientOf
from tests.factories import make_credential, make_run
from tests.fake_arize import Fault, World, failing
from tests.markup import without_bdi
from tests.wire import ENDPOINT

NORA = "VXNlcjoxOm5OYkM="

Round = Callable[..., None]


@pytest.fixture
def world(arize: responses.RequestsMock) -> World:
    world = World().install(arize)
    world.task("T1")
    world.fault = people({NORA: {"name": "Nora Lindqvist", "email": "nora@example.com"}})
    return world


@pytest.fixture
def read(credential: Credential, world: World) -> Round:
    """Run one round `later` seconds from now. Only its calls are recorded."""

    def read(*, later: float = 0) -> None:
        world.calls.clear()
        Credential.objects.update(next_refresh_at=timezone.now(), claimed_until=None, backoff_until=None)
        with time_machine.travel(timezone.now() + timedelta(seconds=later)):
            refresh(credential.pk)

    return read


def people(known: dict[str, dict[str, Any]]) -> Callable[[str], Fault | None]:
    """Arize's answers for users: the known ones, and 404 for the others."""

    def answer(call: str) -> Fault | None:
        if not call.startswith("/v2/users/"):
            return None
        id_ = requests.utils.unquote(call.removeprefix("/v2/users/"))
        return (200, {}, json.dumps({"id": id_, **known[id_]})) if id_ in known else (404, {}, "")

    return answer


def user_reads(world: World) -> int:
    return world.reads_of("/v2/users/")


def names() -> dict[Any, str]:
    """Run pk -> the name of its creator, if known."""
    return {run.pk: run.creator for run in with_creators(Run.objects.all()) if run.creator}


def name() -> str | None:
    return names().get(Run.objects.get().pk)


def test_the_name_of_who_triggered_a_run_is_read_once_a_day(world: World, read: Round) -> None:
    world.run("R1", created_by_user_id=NORA)
    before = Team.objects.get().board_version
    read()
    assert world.calls[-1] == "/v2/users/VXNlcjoxOm5OYkM%3D"
    assert name() == "Nora Lindqvist"
    assert Team.objects.get().board_version > before
    read(later=6)
    assert user_reads(world) == 0
    world.fault = people({NORA: {"name": "Nora Holm"}})
    read(later=86_399)
    assert user_reads(world) == 0
    read(later=86_402)
    assert (user_reads(world), name()) == (1, "Nora Holm")


@pytest.mark.parametrize(
    ("seen", "shown"),
    [
        ({"name": "Nora"}, "Nora"),
        ({"email": "nora@example.com"}, "nora@example.com"),
        ({"name": None, "email": None}, None),
        ({}, None),
        ({"name": ["Nora"], "email": 7}, "7"),
        ({"name": "\0Nora\ud800" + "x" * 100_000}, "Nora\ufffd" + "x" * 100_000),
    ],
)
def test_odd_user_answers_of_a_server_are_read(
    seen: dict[str, Any], shown: str | None, world: World, read: Round
) -> None:
    world.run("R1", created_by_user_id=NORA)
    world.fault = people({NORA: seen})
    read()
    assert name() == shown


def test_a_name_is_kept_after_the_person_has_left(world: World, read: Round) -> None:
    world.run("R1", created_by_user_id=NORA)
    read()
    world.fault = people({})
    read(later=90_000)
    assert (user_reads(world), name()) == (1, "Nora Lindqvist")


def test_a_404_is_asked_again_a_day_later(world: World, read: Round) -> None:
    world.run("R1", created_by_user_id=NORA)
    world.fault = people({})
    read()
    assert (user_reads(world), name()) == (1, None)
    world.fault = people({NORA: {"name": "Nora"}})
    read(later=80_000)
    assert user_reads(world) == 0
    read(later=86_500)
    assert (user_reads(world), name()) == (1, "Nora")


def test_a_round_reads_at_most_five_names(world: World, read: Round) -> None:
    for number in range(12):
        world.run(f"R{number}", created_by_user_id=f"U{number}")
    world.fault = people({f"U{number}": {"name": f"Person {number}"} for number in range(12)})
    counts = []
    for round_ in range(4):
        read(later=round_ * 6)
        counts.append(user_reads(world))
    assert counts == [5, 5, 2, 0]
    assert len(names()) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "refusal", [(403, {}, ""), (404, {}, ""), (500, {}, ""), (200, {}, "<html>"), requests.ReadTimeout()]
)
def test_a_key_that_may_not_read_names_stops_asking_and_keeps_reading(
    refusal: Fault, world: World, read: Round, credential: Credential
) -> None:
    for number in range(12):
        world.run(f"R{number}", created_by_user_id=f"U{number}")
    world.fault = lambda call: refusal if "/users/" in call else None
    read()
    assert 1 <= user_reads(world) <= 5
    for later in (6, 60, 600, 3500):
        read(later=later)
        assert user_reads(world) == 0
    credential.refresh_from_db()
    assert (credential.backoff_until, credential.failures, credential.failing_since) == (None, 0, None)
    read(later=3700)
    assert 1 <= user_reads(world) <= 5


def test_one_missing_person_does_not_stop_the_others(world: World, read: Round) -> None:
    for number in range(7):
        world.run(f"R{number}", created_by_user_id=f"U{number}")
    world.fault = people({f"U{number}": {"name": f"Person {number}"} for number in range(1, 7)})
    read()
    read(later=6)
    assert len(names()) == 6


def test_a_429_for_a_name_makes_the_key_wait_as_any_other(world: World, read: Round, credential: Credential) -> None:
    world.run("R1", created_by_user_id=NORA)
    world.fault = lambda call: (429, {"Retry-After": "40"}, "") if "/users/" in call else None
    read()
    credential.refresh_from_db()
    assert credential.backoff_until is not None


def test_names_wait_when_the_calls_of_the_minute_are_used_up(world: World, read: Round, settings: Any) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 3  # spaces, tasks, the runs of T1
    world.run("R1", created_by_user_id=NORA)
    read()
    assert (Run.objects.count(), user_reads(world)) == (1, 0)


def test_a_good_test_or_a_new_key_ends_the_wait(world: World, read: Round, credential: Credential) -> None:
    from taskruns.audit import Actor
    from taskruns.services import credentials

    world.run("R1", created_by_user_id=NORA)
    world.fault = people({})
    read()
    assert Credential.objects.get().users_refused_at is not None
    credential.refresh_from_db()
    assert credentials.test(credential, by=Actor.command()).ok
    assert Credential.objects.get().users_refused_at is None


def test_very_long_and_empty_ids_are_not_requested(world: World, read: Round) -> None:
    world.run("R1", created_by_user_id=None)
    world.run("R2", created_by_user_id="")
    world.run("R3", created_by_user_id="x" * 3_000)
    world.run("R4")
    read()
    assert Run.objects.count() == 4
    assert not ArizeUser.objects.exists()


def test_people_of_another_team_or_region_with_the_same_id_are_separate(
    team: Team, other_team: Team, credential: Credential
) -> None:
    runs = {}
    for owner, endpoint, called in (
        (team, ENDPOINT, "Nora"),
        (team, "https://api.eu-west-1a.arize.com", "Tomás"),
        (other_team, ENDPOINT, None),
    ):
        key = make_credential(owner, name=f"Key {called}")
        task = Task.objects.create(team=owner, endpoint=endpoint, arize_id="T1", credential=key)
        runs[make_run(task, created_by_user_id=NORA).pk] = called
        ArizeUser.objects.create(
            team=owner, endpoint=endpoint, arize_id=NORA, name=called or "", known=called is not None
        )
    expected = {pk: called for pk, called in runs.items() if called}
    assert names() == expected


def test_the_page_of_a_run_shows_the_name_beside_the_id(
    world: World, read: Round, team: Team, vera: User, client_of: ClientOf
) -> None:
    world.run("R1", created_by_user_id=NORA)
    world.fault = lambda _: None
    read()
    url = f"/teams/{team.slug}/runs/{Run.objects.get().pk}/"
    assert shown(client_of(vera).get(url)) == NORA
    world.fault = people({NORA: {"name": "Nora <b>"}})
    read(later=86_500)
    assert shown(client_of(vera).get(url)) == f"Nora &lt;b&gt; ({NORA})"


def shown(page: Any) -> str:
    found = re.search(
        r"<code>created_by_user_id</code></dt>\s*<dd>\s*([^\n]*?)\s*</dd>", without_bdi(page.content.decode())
    )
    assert found is not None
    return found[1]


def test_the_client_reads_a_user_and_recognises_a_refusal(arize: responses.RequestsMock) -> None:
    url = f"{ENDPOINT}/v2/users/VXNlcjoxOm5OYkM%3D"
    arize.get(url, json={"id": NORA, "name": "Nora", "status": "ACTIVE", "is_developer": True})
    arize.get(url, status=404)
    arize.get(url, json={"name": "nobody"})
    with ArizeClient(ENDPOINT, "ak-test-key-0123456789", get_retries=0) as client:
        user = client.get_user(NORA)
        assert (user.id, user.name, user.email, user.raw["status"]) == (NORA, "Nora", None, "ACTIVE")
        for refusal in (NotFound, Unreadable):
            with pytest.raises(refusal):
                client.get_user(NORA)


def test_a_user_without_an_id_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        WireUser.from_json({"name": "Nora"})


def test_after_a_fault_the_round_leaves_the_other_names_for_later(world: World, read: Round) -> None:
    for number in range(3):
        world.run(f"R{number}", created_by_user_id=f"U{number}")
    world.fault = failing("/users/", 503)
    read()
    assert {user.read_at for user in ArizeUser.objects.all()} == {None}
