"""Active runs that no newest page shows are read although many other tasks have active runs."""

import pytest
import responses
from django.utils import timezone

from taskruns.models import Run, Team
from tests.factories import make_credential
from tests.fake_arize import World
from tests.mirror.simulation import Simulation, fill, p95, watch

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.mark.parametrize(("busy", "most"), [(8, 6), (20, 25)])
def test_a_run_below_the_newest_page_is_read_beside_busy_tasks(
    busy: int, most: int, clock: object, team: Team, arize: responses.RequestsMock
) -> None:
    world = World().install(arize)
    simulation = Simulation(world, clock, make_credential(team))
    fill(world, simulation.key, tasks=busy + 1, active=busy)
    world.run("deep", f"T{busy}")
    watch(team)
    simulation.run(60)
    for number in range(110):
        world.run(f"newer {number}", f"T{busy}", "COMPLETED", minute=10 + number)
    world.tasks[f"T{busy}"]["last_run_at"] = "2026-11-23T02:59:00Z"
    ages: dict[str, list[float]] = {"deep": [], "others": []}

    def note(_: Simulation) -> None:
        for run in Run.objects.filter(rank=1):
            age = (timezone.now() - run.observed_at).total_seconds()
            ages["deep" if run.arize_id == "deep" else "others"].append(age)

    simulation.run(300, before_tick=note)
    assert p95(ages["others"]) <= most
    assert p95(ages["deep"]) <= most
    assert simulation.most_in_a_minute() <= 300
