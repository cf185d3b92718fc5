"""How soon new runs are in the mirror, and what that costs: simulated minutes, with every call counted by the fake."""

import statistics
from datetime import timedelta
from typing import Any

import pytest
import responses

from taskruns.models import EmergencyStop, Run, Team
from tests.factories import make_credential
from tests.fake_arize import START, World
from tests.mirror.simulation import NewRuns, Simulation, fill, p95, watch

pytestmark = [pytest.mark.slow, pytest.mark.once]

LIMIT = 300


@pytest.fixture
def simulation(clock: Any, team: Team, arize: responses.RequestsMock) -> Simulation:
    return Simulation(World().install(arize), clock, make_credential(team))


@pytest.mark.parametrize(("tasks", "spaces", "goal"), [(300, 1, 10), (300, 4, 10), (1_000, 4, 25)])
def test_new_runs_with_a_hint_are_soon_on_a_watched_board(
    tasks: int, spaces: int, goal: int, simulation: Simulation
) -> None:
    idle = fill(simulation.world, simulation.key, tasks=tasks, active=8, spaces=spaces)
    watch(simulation.key.team)
    simulation.run(300, before_tick=NewRuns(idle, has_hint=True, every=8, until=270))
    assert (len(simulation.unseen), len(simulation.delays) >= 30) == (0, True)
    assert p95(simulation.delays) <= goal
    assert simulation.most_in_a_minute() <= LIMIT


def test_a_watched_board_of_300_tasks_is_searched_within_two_minutes(simulation: Simulation) -> None:
    """Six tasks are active all the time, and two more at a time for a minute each."""
    idle = fill(simulation.world, simulation.key, tasks=300, active=6)
    watch(simulation.key.team)
    simulation.run(360, before_tick=NewRuns(idle, has_hint=False, every=30, until=230))
    assert max(age for second, age in simulation.searched.items() if second >= 120 and age is not None) <= 120
    assert simulation.unseen == {}
    assert max(simulation.delays) <= 120
    assert simulation.most_in_a_minute() <= LIMIT


def test_every_full_search_of_a_watched_board_ends_within_115_seconds(simulation: Simulation) -> None:
    """Also when the board is opened after a while: the calls before that must not slow down a later search."""
    fill(simulation.world, simulation.key, tasks=300, active=8, spaces=4)
    simulation.run(90)
    opened = simulation.second
    watch(simulation.key.team)
    simulation.run(5 * 115)
    ages = {second - opened: age for second, age in simulation.searched.items() if second > opened}
    for cycle in range(1, 5):
        in_cycle = [age for second, age in ages.items() if cycle * 115 < second <= (cycle + 1) * 115]
        assert max(age for age in in_cycle if age is not None) <= 115, cycle
    assert simulation.most_in_a_minute() <= LIMIT


def test_an_emergency_stop_finds_new_runs_without_a_viewer(simulation: Simulation) -> None:
    idle = fill(simulation.world, simulation.key, tasks=300, active=8, spaces=4)
    EmergencyStop.objects.create(
        team=simulation.key.team, person_label="oli", reason="why", expires_at=START + timedelta(days=1)
    )
    simulation.run(300, before_tick=NewRuns(idle, has_hint=True, every=8, until=270))
    assert simulation.unseen == {}
    assert p95(simulation.delays) <= 15
    assert simulation.most_in_a_minute() <= LIMIT


def test_an_unwatched_board_costs_few_calls(simulation: Simulation) -> None:
    fill(simulation.world, simulation.key, tasks=1_000, active=5, spaces=4)
    simulation.run(300)
    assert 20 <= simulation.most_in_a_minute() <= 40
    assert Run.objects.filter(rank=1).count() == 5


def test_searched_at_never_claims_too_much(simulation: Simulation) -> None:
    """A run that Arize held before `searched_at` is in the mirror, with and without hints."""
    idle = fill(simulation.world, simulation.key, tasks=120, active=4, spaces=2)
    watch(simulation.key.team)
    hints, none = NewRuns(idle[:50], has_hint=True, every=12), NewRuns(idle[50:], has_hint=False, every=12)
    claims = []

    def change(simulation: Simulation) -> None:
        hints(simulation)
        none(simulation)
        age = simulation.searched.get(simulation.second - 5)
        oldest = max((simulation.second - at for at in simulation.unseen.values()), default=0.0)
        claims.append((oldest, age))

    simulation.run(240, before_tick=change)
    known = [(oldest, age + 5) for oldest, age in claims if age is not None]
    assert len(known) > 30
    assert not [(oldest, age) for oldest, age in known if oldest > age]
    assert statistics.median(age for _, age in known) < 90
