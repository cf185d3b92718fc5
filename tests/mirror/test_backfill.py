"""A backfill through very many new runs: the newest run never waits for it."""

from datetime import timedelta
from typing import Any

import pytest
import responses

from taskruns.models import Run, Task, Team
from tests.factories import make_credential
from tests.fake_arize import START, World
from tests.mirror.simulation import TICK, Simulation, fill, watch

pytestmark = [pytest.mark.slow, pytest.mark.once]

RUNS = 15_000


def test_the_newest_run_is_seen_in_each_round_of_a_long_backfill(
    clock: Any, team: Team, arize: responses.RequestsMock
) -> None:
    simulation = Simulation(World().install(arize), clock, make_credential(team))
    world = simulation.world
    fill(world, simulation.key, tasks=20, active=1)
    world.runs["T5"] = [
        {
            "id": f"unread-{number}",
            "task_id": "T5",
            "status": "COMPLETED",
            "created_at": (START - timedelta(seconds=number + 1)).isoformat(),
        }
        for number in range(RUNS)
    ]
    world.tasks["T5"]["last_run_at"] = START.isoformat()
    watch(team)
    Task.objects.filter(arize_id="T5").update(caught_up_at=START - timedelta(days=30))

    def add(simulation: Simulation) -> None:
        assert not simulation.unseen, "the newest run of the last tick"
        simulation.add_run("T5", simulation.second, has_hint=True, status="COMPLETED")

    while Run.objects.filter(task__arize_id="T5").count() < RUNS + len(simulation.delays):
        simulation.run(TICK, before_tick=add)
        assert simulation.second < RUNS / 40, "at least 40 runs a second"
    assert max(simulation.delays) == 0
    assert simulation.most_in_a_minute() <= 300
