"""Several keys that see the same tasks: the first one reads and acts as long as it can."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import responses
import time_machine
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskruns.arize.wire import WireTask
from taskruns.audit import Actor
from taskruns.models import Credential, Run, Task, Team
from taskruns.services import credentials
from taskruns.services.credentials.budget import Budget
from taskruns.services.mirror import due, refresh, schedule, tasks
from tests.factories import make_credential
from tests.fake_arize import World, failing
from tests.wire import ENDPOINT

FIRST, SECOND = "ak-first-key-0123456789", "ak-second-key-0123456789"


@pytest.fixture
def world(arize: responses.RequestsMock) -> World:
    world = World(sees={FIRST: {"S1", "S2"}, SECOND: {"S1", "S3"}}).install(arize)
    for number in (1, 2, 3):
        world.task(f"T{number}", space=f"S{number}")
        world.run(f"R{number}", f"T{number}")
    return world


@pytest.fixture
def keys(team: Team, world: World) -> tuple[Credential, Credential]:
    first, second = make_credential(team, name="First", key=FIRST), make_credential(team, name="Second", key=SECOND)
    read(first, second)
    return first, second


def read(*keys: Credential, later: float = 0) -> None:
    with time_machine.travel(timezone.now() + timedelta(seconds=later)):
        Credential.objects.update(next_refresh_at=timezone.now())
        for key in keys:
            refresh(key.pk)


def readers() -> dict[str, str]:
    return dict(Task.objects.order_by("arize_id").values_list("arize_id", "credential__name"))


def test_the_first_key_that_lists_a_task_reads_it(keys: tuple[Credential, Credential], world: World) -> None:
    assert readers() == {"T1": "First", "T2": "First", "T3": "Second"}
    assert Run.objects.count() == 3
    world.calls.clear()
    read(keys[1], later=10)
    assert world.paths() == ["tasks/T3/runs"]


@pytest.mark.slow
def test_a_task_stays_with_its_first_key_while_that_key_lists_it(keys: tuple[Credential, Credential]) -> None:
    """Without attention, the lists of the two keys are minutes apart."""
    first, second = keys
    for minute in range(6, 60, 6):
        read(second, later=60 * minute - 1)
        assert readers()["T1"] == "First"
        read(first, later=60 * minute)
    assert readers()["T1"] == "First"


def test_a_key_that_waits_for_arize_keeps_its_tasks(keys: tuple[Credential, Credential]) -> None:
    first, second = keys
    Credential.objects.filter(pk=first.pk).update(backoff_until=timezone.now() + timedelta(hours=1))
    read(second, later=1800)
    assert readers()["T1"] == "First"


def test_another_key_takes_over_from_a_revoked_one(keys: tuple[Credential, Credential]) -> None:
    first, second = keys
    credentials.revoke(first, by=Actor.command())
    assert readers()["T1"] is None
    assert due(timezone.now()) == [second.pk]
    before = Team.objects.get().board_version
    refresh(second.pk)
    assert readers() == {"T1": "Second", "T2": None, "T3": "Second"}
    assert Run.objects.count() == 3
    assert Team.objects.get().board_version > before, "open boards said that no key reads the task"


@pytest.mark.parametrize("change", [{"endpoint": "https://api.eu-west-1a.arize.com"}, {"revoked_at": timezone.now()}])
def test_a_key_that_changed_during_the_round_takes_no_task_back(
    keys: tuple[Credential, Credential], change: dict[str, Any]
) -> None:
    first, _ = keys
    Task.objects.update(credential=None)
    Credential.objects.filter(pk=first.pk).update(**change)
    assert tasks._mirror(first, {"T1": tasks._Found(WireTask.from_json({"id": "T1"}), [])}) == 0
    assert readers()["T1"] is None


def test_another_key_takes_over_from_a_failing_one(keys: tuple[Credential, Credential], world: World) -> None:
    first, second = keys
    world.fault = failing("/v2/", 401)
    for later in (10, 20):
        read(first, later=later)
    world.fault = lambda _: None
    read(second, later=80)
    assert readers() == {"T1": "Second", "T2": "First", "T3": "Second"}
    Credential.objects.filter(pk=first.pk).update(failing_since=None)
    read(first, later=140)
    assert readers()["T1"] == "Second"


def test_another_key_takes_over_a_task_that_the_first_no_longer_lists(
    keys: tuple[Credential, Credential], world: World
) -> None:
    first, second = keys
    world.sees[FIRST] = {"S2"}
    for seconds in (61, 122):
        read(first, second, later=seconds)
    assert readers()["T1"] == "First"
    for seconds in (301, 363, 425):
        read(first, second, later=seconds)
    assert readers() == {"T1": "Second", "T2": "First", "T3": "Second"}


def test_the_keys_of_two_teams_are_independent(keys: tuple[Credential, Credential], other_team: Team) -> None:
    key = make_credential(other_team, name="South", key=FIRST)
    refresh(key.pk)
    assert Task.objects.filter(team=other_team, credential=key).count() == 2
    assert Run.objects.filter(team=other_team).count() == 2
    assert Run.objects.count() == 5


def refreshed(*args: str) -> str:
    out = StringIO()
    call_command("refresh", *args, stdout=out)
    return out.getvalue()


def test_the_command_reads_everything_now_and_says_what_it_did(team: Team, world: World) -> None:
    first = make_credential(team, name="First", key=FIRST)
    later = timezone.now() + timedelta(hours=1)
    Credential.objects.update(next_refresh_at=later, claimed_until=later, backoff_until=later)
    assert refreshed("ops-north") == "ops-north / First: 2 tasks, 4 changes, 5 calls.\n"
    second = refreshed()
    assert second.startswith("ops-north / First: 2 tasks, 0 changes, ")
    first.refresh_from_db()
    assert (first.claimed_until, first.backoff_until) == (None, None)


def test_the_command_ignores_the_rate_limit(team: Team, world: World, settings: Any) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 1
    make_credential(team, name="First", key=FIRST)
    refreshed()
    assert Run.objects.count() == 2


def test_the_command_reads_one_team_only(team: Team, other_team: Team, world: World) -> None:
    make_credential(team, name="First", key=FIRST)
    make_credential(other_team, name="South", key=SECOND)
    assert refreshed("ops-south").startswith("ops-south / South: ")
    assert not Task.objects.filter(team=team).exists()


@pytest.mark.parametrize("status", [401, 429, 500])
def test_the_command_fails_when_a_key_fails_and_reads_with_the_others(status: int, team: Team, world: World) -> None:
    make_credential(team, name="A broken one", key=FIRST)
    make_credential(team, name="Good", key=SECOND)
    world.sees = {FIRST: set(), SECOND: {"S3"}}
    # Two calls with two retries each, or the first refused call.
    its_calls = 6 if status == 500 else 1
    world.fault = lambda _: (status, {}, "") if len(world.calls) <= its_calls else None
    out = StringIO()
    with pytest.raises(CommandError, match=rf"1 of 2 API keys failed: ops-north / A broken one: .*{status}.*\.$"):
        call_command("refresh", stdout=out)
    assert str(status) in out.getvalue().splitlines()[0]
    assert out.getvalue().splitlines()[1].startswith("ops-north / Good: 1 tasks")
    assert Task.objects.filter(arize_id="T3").exists()


def test_the_command_explains_an_unknown_team_and_an_empty_one(team: Team) -> None:
    assert refreshed("ops-north") == "There are no API keys to read with.\n"
    with pytest.raises(CommandError, match="There is no team ops-east"):
        refreshed("ops-east")


def test_an_endpoint_that_is_no_longer_allowed_is_explained(team: Team, settings: Any) -> None:
    make_credential(team)
    settings.ARIZE_ENDPOINTS = ()
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("refresh", stdout=out)
    assert "neither an Arize region" in out.getvalue()
    assert ENDPOINT not in out.getvalue()


def test_a_long_round_keeps_its_claim_and_a_lost_one_stays_lost(credential: Credential) -> None:
    held = schedule.claim(credential.pk)
    assert held is not None
    assert held.claimed_until is not None
    budget = Budget(300, [])
    schedule.renew(held, budget=budget)
    until = held.claimed_until
    schedule.renew(held, budget=budget)
    assert held.claimed_until == until, "not renewed with every answer"
    with time_machine.travel(timezone.now() + timedelta(seconds=30)):
        schedule.renew(held, budget=budget)
    assert held.claimed_until >= until + timedelta(seconds=29)
    credential.refresh_from_db()
    assert credential.claimed_until == held.claimed_until
    Credential.objects.update(claimed_until=until + timedelta(hours=1))
    with time_machine.travel(timezone.now() + timedelta(seconds=60)):
        schedule.renew(held, budget=budget)
    credential.refresh_from_db()
    assert credential.claimed_until == until + timedelta(hours=1), "another round has claimed it"
