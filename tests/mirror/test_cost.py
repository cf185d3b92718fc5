"""Calls to Arize per minute, counted while simulated workers tick and simulated boards poll."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Credential, Run, Task, Team
from taskruns.services.mirror import due, note_attention, refresh
from tests.factories import make_credential
from tests.fake_arize import START, World

pytestmark = [pytest.mark.slow, pytest.mark.once]

MINUTES = 2
MOST_QUERIES = 37  # with BEGIN and COMMIT


@pytest.fixture
def world(arize: responses.RequestsMock, clock: Any, team: Team) -> World:
    """1,000 mirrored tasks in four spaces, and five active runs."""
    world = World().install(arize)
    key = make_credential(team, first_contact_done_at=START)
    for number in range(1000):
        ran = f"2026-11-22T{number // 60:02}:{number % 60:02}:00Z"
        world.task(f"T{number}", space=f"S{number % 4}", last_run_at=ran)
    Task.objects.bulk_create(
        Task(
            team=team,
            endpoint=key.endpoint,
            arize_id=id_,
            credential=key,
            last_run_at=members["last_run_at"],
            runs_read_at=START,
            runs_read_to=members["last_run_at"],
        )
        for id_, members in world.tasks.items()
    )
    for number in range(5):
        world.run(f"R{number}", f"T{number}")
        world.tasks[f"T{number}"]["last_run_at"] = "2026-11-23T02:59:00Z"
    refresh(key.pk)
    assert Run.objects.filter(rank=1).count() == 5
    return world


def most_in_a_minute(world: World, clock: Any, *, boards: int, minutes: int = MINUTES) -> int:
    """Tick every 5 s for some minutes; before each tick, every open board polls."""
    called = {}
    for second in range(5, 60 * minutes + 5, 5):
        clock.move_to(START + timedelta(seconds=second))
        team = Team.objects.get()  # each board polls as if it was loaded at the same time
        for _ in range(boards):
            note_attention([team])
        before = len(world.calls)
        for key in due(timezone.now()):
            refresh(key)
        called[second] = len(world.calls) - before
    return max(sum(calls for at, calls in called.items() if start <= at < start + 60) for start in called)


def test_calls_do_not_depend_on_the_number_of_viewers(world: World, clock: Any) -> None:
    one = most_in_a_minute(world, clock, boards=1, minutes=1)
    Credential.objects.update(next_refresh_at=START, tasks_read_at=START, recent_calls=[])
    Task.objects.update(runs_read_at=START, swept_at=None)
    clock.move_to(START)
    many = most_in_a_minute(world, clock, boards=200, minutes=1)
    assert one == many
    assert one > 60, "five runs, twelve times"


@pytest.mark.parametrize(("boards", "most"), [(1, 300), (0, 40)], ids=["watched", "not watched"])
def test_a_thousand_idle_tasks_and_five_active_runs_cost_few_calls(
    boards: int, most: int, world: World, clock: Any
) -> None:
    """While a board is open, the search may use up the rate limit."""
    measured = most_in_a_minute(world, clock, boards=boards)
    assert 10 < measured <= most


def test_a_change_of_an_active_run_is_mirrored_by_the_next_tick(world: World, clock: Any) -> None:
    for number in range(5):
        clock.move_to(START + timedelta(seconds=5 * number + 5))
        note_attention([Team.objects.get()])
        world.find(f"R{number}")["status"] = "COMPLETED"  # type: ignore[index]
        for key in due(timezone.now()):
            refresh(key)
        assert Run.objects.get(arize_id=f"R{number}").status == "completed"


def test_a_round_in_which_nothing_changes_makes_few_queries(
    arize: responses.RequestsMock, clock: Any, credential: Credential, watch: Callable[[], None]
) -> None:
    """One active run, its board is open. With many keys, the queries decide how many one worker can read in time."""
    world = World().install(arize)
    world.task("T1", space="S1")
    world.run("R1", "T1")
    watch()
    for second in (0, 5, 10):
        clock.move_to(START + timedelta(seconds=second))
        before = len(world.calls)
        with CaptureQueriesContext(connection) as queries:
            report = refresh(credential.pk)
    assert report is not None
    assert (report.changed, report.problem) == (0, "")
    assert len(world.calls) - before == 2, "the runs of the task, and the tasks of the space"
    assert len(queries) <= MOST_QUERIES, [query["sql"][:100] for query in queries]
