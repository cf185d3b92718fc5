"""Looks at cancelled runs: a share of the rate limit, growing distances, and none if a list shows the run."""

import itertools
import statistics
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.utils import timezone

from taskruns.models import Cancellation, Credential, Outcome, Run, Status, Task, Team
from taskruns.services.cancellations import sweep
from taskruns.services.credentials.budget import Kind
from taskruns.services.mirror import refresh
from tests.factories import make_credential, make_run
from tests.fake_arize import START, World, failing
from tests.mirror.simulation import NewRuns, Simulation, fill, watch
from tests.stored import events

pytestmark = pytest.mark.once

LIMIT = 300
PEOPLE = {"person_label": "oli@example.com"}


@pytest.fixture
def simulation(clock: Any, team: Team, arize: responses.RequestsMock) -> Simulation:
    return Simulation(World().install(arize), clock, make_credential(team))


def cancelled(simulation: Simulation, *, runs: int, tasks: int, are_below: bool, **fields: Any) -> list[str]:
    """Active runs, each with a cancellation, spread over the first of 300 tasks. Returns the ids of the idle tasks.

    `are_below`: each of these tasks has a newest page of other runs, which have ended.
    """
    world = simulation.world
    idle = fill(world, simulation.key, tasks=300, active=0)
    for number in range(runs):
        world.run(f"R{number}", f"T{number % tasks}")
    simulation.run(5)
    refresh(simulation.key.pk, force=True)
    found = Run.objects.filter(rank=1)
    assert found.count() == runs
    Cancellation.objects.bulk_create(Cancellation(run=run, **PEOPLE, **fields) for run in found)
    for number in range(100 * tasks if are_below else 0):
        world.run(f"ended-{number}", f"T{number % tasks}", "COMPLETED")
    world.calls.clear()
    return idle[tasks:]


def sweep_each_minute(simulation: Simulation) -> None:
    if simulation.second % 60 == 0:
        sweep()


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "are_below"), [(120, False), (3, True)])
def test_lost_cancels_do_not_keep_new_runs_from_being_seen(tasks: int, are_below: Any, simulation: Simulation) -> None:
    """120 cancels got a 500 and had no effect."""
    lost = {"outcome": Outcome.UNKNOWN, "answer": {"http_status": 500}}
    idle = cancelled(simulation, runs=120, tasks=tasks, are_below=are_below, **lost)
    watch(simulation.key.team)
    new = NewRuns(idle, has_hint=True, every=4, next_at=simulation.second, until=simulation.second + 130)

    def change(simulation: Simulation) -> None:
        new(simulation)
        sweep_each_minute(simulation)

    simulation.run(150, before_tick=change)
    assert (len(simulation.unseen), len(simulation.delays) >= 30) == (0, True)
    assert statistics.median(simulation.delays) <= 4
    assert simulation.most_in_a_minute() <= LIMIT
    assert set(Cancellation.objects.values_list("outcome", flat=True)) == {Outcome.UNKNOWN}


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "tasks", "are_below"), [(100, 20, False), (320, 3, True)])
def test_slow_cancels_never_exceed_the_rate_limit(
    runs: int, tasks: int, are_below: Any, simulation: Simulation
) -> None:
    """Halfway to "still running", so that the simulated time is short."""
    stopping = {"stopping_since": START - timedelta(seconds=145)}
    idle = cancelled(simulation, runs=runs, tasks=tasks, are_below=are_below, **stopping)
    watch(simulation.key.team)
    new = NewRuns(idle, has_hint=True, every=4, next_at=simulation.second, until=simulation.second + 130)

    def change(simulation: Simulation) -> None:
        new(simulation)
        sweep_each_minute(simulation)

    simulation.run(290, before_tick=change)
    assert simulation.most_in_a_minute() <= LIMIT
    assert (len(simulation.unseen), len(simulation.delays) >= 25) == (0, True)
    assert set(Cancellation.objects.values_list("outcome", flat=True)) == {Outcome.STILL_RUNNING}


@pytest.fixture
def task(credential: Credential, world: World) -> Task:
    world.task("T1")
    refresh(credential.pk, force=True)
    far = START + timedelta(days=1)
    Task.objects.update(runs_read_at=far, swept_at=far)
    world.calls.clear()
    return Task.objects.get()


def unknown(task: Task, world: World, number: int = 0, *, status: Status = Status.UNKNOWN) -> Cancellation:
    """A run that is not active in the mirror, so that no list is read for it."""
    run = make_run(task, arize_id=f"R{number}", status=status, observed_at=timezone.now())
    world.run(run.arize_id, status="RUNNING" if status == Status.RUNNING else "PAUSED")
    return Cancellation.objects.create(run=run, outcome=Outcome.UNKNOWN, **PEOPLE)


def round_later(credential: Credential, clock: Any, seconds: int) -> None:
    clock.shift(seconds)
    Credential.objects.update(next_refresh_at=timezone.now(), tasks_read_at=timezone.now())
    assert refresh(credential.pk) is not None


def test_the_distance_between_looks_doubles_up_to_five_minutes(
    task: Task, world: World, credential: Credential, clock: Any
) -> None:
    unknown(task, world)
    looked_at = []
    for second in range(0, 1500, 5):
        before = world.reads_of("task-runs/R0")
        round_later(credential, clock, 5)
        if world.reads_of("task-runs/R0") > before:
            looked_at.append(second)
    distances = [later - earlier for earlier, later in itertools.pairwise(looked_at)]
    assert distances == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_round_looks_at_five_runs_at_most(
    task: Task, world: World, credential: Credential, clock: Any, settings: Any
) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 3_000  # so that the rate limit would allow more
    for number in range(9):
        unknown(task, world, number)
    round_later(credential, clock, 5)
    assert sum(world.reads_of(f"task-runs/R{number}") for number in range(9)) == 5


def test_two_cancels_of_a_run_cost_one_look(task: Task, world: World, credential: Credential, clock: Any) -> None:
    first = unknown(task, world)
    Cancellation.objects.create(run=first.run, stopping_since=timezone.now(), **PEOPLE)
    world.runs["T1"][0]["status"] = "COMPLETED"
    round_later(credential, clock, 5)
    assert world.reads_of("task-runs/R0") == 1
    assert set(Cancellation.objects.values_list("outcome", flat=True)) == {Outcome.FINISHED_FIRST}


def test_a_list_page_settles_the_cancels_of_the_runs_that_it_shows(
    task: Task, world: World, credential: Credential, clock: Any
) -> None:
    rows = [unknown(task, world, number, status=Status.RUNNING) for number in range(3)]
    world.runs["T1"][0]["status"] = "CANCELLED"
    round_later(credential, clock, 5)
    assert world.paths() == ["tasks/T1/runs"], "no look, because the page shows all three"
    assert [row.outcome for row in Cancellation.objects.order_by("run__arize_id")] == [
        "unknown",
        "unknown",
        "confirmed",
    ]
    assert events(operation_id=rows[2].pk) == [("run.cancel", "confirmed")]
    assert Run.objects.get(arize_id="R2").status == Status.CANCELLED
    assert not Cancellation.objects.exclude(look_at=None).exists()


def test_a_list_page_checks_confirmed_cancels(task: Task, world: World, credential: Credential, clock: Any) -> None:
    for number, status in enumerate(("CANCELLED", "RUNNING", "RUNNING")):
        mirrored = Status.RUNNING if number == 2 else Status.CANCELLED
        run = make_run(task, arize_id=f"R{number}", status=mirrored, observed_at=timezone.now())
        world.run(run.arize_id, status=status)
        if number < 2:
            Cancellation.objects.create(run=run, outcome=Outcome.CONFIRMED, closed_at=timezone.now(), **PEOPLE)
    for _ in range(3):
        round_later(credential, clock, 12)
    assert world.reads_of("task-runs") == 0
    assert dict(Run.objects.values_list("arize_id", "status"))["R1"] == Status.RUNNING, "it ignored its cancel"


@pytest.mark.parametrize(
    ("state", "reads"),
    [
        ({"last_good_at": START}, 0),
        ({"last_good_at": START - timedelta(minutes=10)}, 1),
        ({"last_good_at": START, "failing_since": START}, 1),
    ],
)
def test_the_sweep_leaves_followed_runs_to_the_rounds(
    state: dict[str, Any], reads: int, task: Task, world: World
) -> None:
    unknown(task, world)
    Credential.objects.update(**state)
    sweep()
    assert world.reads_of("task-runs/R0") == reads


def test_the_sweep_pays_from_the_rate_limit_of_the_key(task: Task, world: World, settings: Any) -> None:
    """What a crash left open gets an outcome, even if no call is left to look at the run."""
    Credential.objects.update(recent_calls=[], last_good_at=START)
    for number in range(14):
        row = unknown(task, world, number)
        long_ago = timezone.now() - timedelta(minutes=2)
        Cancellation.objects.filter(pk=row.pk).update(outcome=Outcome.OPEN, posted_at=long_ago)
    world.runs["T1"][:] = [run | {"status": "CANCELLED"} for run in world.runs["T1"]]
    assert sweep() == 14
    assert world.reads_of("task-runs") == 10
    outcomes = list(Cancellation.objects.values_list("outcome", flat=True))
    assert (outcomes.count("confirmed"), outcomes.count("unknown")) == (10, 4)
    spent = Credential.objects.get().recent_calls
    assert sum(calls for _, kind, calls in spent if kind == Kind.SWEEP) == 10


def test_an_overdue_cancel_is_closed_by_the_sweep_if_rounds_cannot_read(
    task: Task, world: World, credential: Credential
) -> None:
    row = unknown(task, world)
    Cancellation.objects.update(outcome=Outcome.OPEN, stopping_since=START - timedelta(seconds=361))
    Credential.objects.update(last_good_at=START)
    world.fault = failing("task-runs", 500)
    assert sweep() == 1
    row.refresh_from_db()
    assert (row.outcome, row.followed) == (Outcome.UNKNOWN, True)
