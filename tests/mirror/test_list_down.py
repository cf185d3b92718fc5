"""Only the list of tasks fails: the runs of the known tasks are read as before."""

from typing import Any

import pytest
import responses
from django.test import Client
from django.utils import timezone

from taskruns.models import Credential, Run, Task, Team, User
from taskruns.services.mirror import refresh
from tests.clients import ClientOf
from tests.factories import make_credential
from tests.fake_arize import World, failing
from tests.mirror.simulation import Simulation, fill, watch


@pytest.fixture
def simulation(clock: Any, team: Team, arize: responses.RequestsMock) -> Simulation:
    return Simulation(World().install(arize), clock, make_credential(team))


@pytest.fixture
def browser(client_of: ClientOf, mona: User) -> Client:
    return client_of(mona)


@pytest.mark.slow
@pytest.mark.parametrize(("is_watched", "most"), [(True, 5), (False, 30)])
def test_runs_are_read_while_the_tasks_cannot_be_listed(is_watched: Any, most: int, simulation: Simulation) -> None:
    world = simulation.world
    fill(world, simulation.key, tasks=40, active=3, spaces=20)
    if is_watched:
        watch(simulation.key.team)
    simulation.run(60)
    world.fault = failing("/v2/tasks?", 503)
    ages = []

    def note(_: Simulation) -> None:
        oldest = Run.objects.filter(rank=1).order_by("observed_at")[0]
        ages.append((timezone.now() - oldest.observed_at).total_seconds())

    world.calls.clear()
    simulation.run(300, before_tick=note)
    assert max(ages) <= most
    assert world.reads_of("/v2/tasks?") <= 10 * 4 * 3, "some attempts every 30 s, not one for each space"
    world.task("new")
    world.fault = lambda _: None
    simulation.run(60)
    assert Task.objects.filter(arize_id="new").exists()
    assert Credential.objects.get().list_problem == ""


def test_a_list_that_fails_is_said_and_pauses_no_key(simulation: Simulation, browser: Client) -> None:
    simulation.world.task("T1")
    simulation.world.run("R1", "T1")
    simulation.run(5)
    simulation.world.fault = failing("/v2/tasks?", 503)
    version = Team.objects.get().board_version
    Credential.objects.update(next_refresh_at=timezone.now(), tasks_read_at=None)
    report = refresh(simulation.key.pk)
    assert report is not None
    assert "503" in report.problem
    key = Credential.objects.get()
    assert (key.failures, key.backoff_until) == (0, None)
    assert Team.objects.get().board_version > version
    assert "Arize does not list the tasks now" in browser.get("/teams/ops-north/runs/").content.decode()


def test_a_key_pauses_if_nothing_but_its_list_was_asked(simulation: Simulation) -> None:
    simulation.world.fault = failing("/v2/tasks?", 503)
    simulation.run(5)
    key = Credential.objects.get()
    assert (key.failures, key.list_problem, key.listing_at) == (1, "", {})
