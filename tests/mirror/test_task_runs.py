"""Interrupted backfills of a task's runs leave no run unread."""

import json
from typing import Any

import pytest
import requests
import responses
from django.utils import timezone

from taskruns.arize.client import ArizeClient, StatusCasing
from taskruns.models import Credential, Run, Task, Team
from taskruns.services.credentials.budget import Budget
from taskruns.services.mirror import refresh
from taskruns.services.mirror.task_runs import MOST_PAGES
from tests.factories import make_credential
from tests.fake_arize import World, failing


@pytest.fixture
def world(clock: Any, team: Team, arize: responses.RequestsMock) -> World:
    """One task, read once, with one known run. `missed` adds newer runs."""
    world = World().install(arize)
    world.task("T1", last_run_at="2026-11-23T00:00:00Z")
    world.run("known", status="COMPLETED")
    make_credential(team)
    read(world, clock)
    world.page = 10
    return world


def missed(world: World, number: int) -> None:
    before = len(world.runs["T1"])
    for each in range(before, before + number):
        world.run(f"new{each}", status="COMPLETED", minute=each)
    world.tasks["T1"]["last_run_at"] = f"2026-11-23T{before // 60:02}:{before % 60:02}:30Z"


def read(world: World, clock: Any, *, later: int = 61) -> None:
    clock.shift(later)
    world.calls.clear()
    Credential.objects.update(next_refresh_at=timezone.now(), backoff_until=None)
    assert refresh(Credential.objects.get().pk) is not None


def unread(world: World) -> set[str]:
    return {run["id"] for run in world.runs["T1"]} - set(Run.objects.values_list("arize_id", flat=True))


@pytest.mark.parametrize("fault", [(500, {}, ""), (429, {}, ""), requests.ConnectionError(), (200, {}, "nonsense")])
def test_an_interrupted_backfill_resumes_where_it_stopped(world: World, clock: Any, fault: Any) -> None:
    missed(world, 35)
    world.fault = lambda call: fault if "cursor=20" in call else None
    read(world, clock)
    assert len(unread(world)) == 15
    world.fault = lambda _: None
    read(world, clock)
    assert unread(world) == set()
    assert world.reads_of("cursor=10") == 0
    assert Task.objects.get().gap_cursor == ""
    read(world, clock)
    assert world.reads_of("cursor") == 0


@pytest.mark.slow
def test_runs_that_arrive_during_an_interruption_are_found_too(world: World, clock: Any) -> None:
    missed(world, 35)
    world.fault = failing("cursor=20", 500)
    read(world, clock)
    missed(world, 25)
    read(world, clock)
    world.fault = lambda _: None
    read(world, clock)
    assert unread(world) == set()
    assert world.paths().count("tasks/T1/runs") >= 2


def test_a_backfill_reads_a_few_pages_a_round_until_it_is_done(world: World, clock: Any) -> None:
    world.page = 1
    missed(world, 3 * MOST_PAGES - 1)
    for reached in (1, 2):
        read(world, clock, later=6)
        assert world.reads_of("T1/runs") == 1 + MOST_PAGES, "the newest page and some older ones"
        assert len(unread(world)) == (3 - reached) * MOST_PAGES - 2
        key = Credential.objects.get()
        assert (key.next_refresh_at - timezone.now()).total_seconds() <= 5, "the rest does not wait for attention"
    read(world, clock, later=6)
    assert unread(world) == set()


def test_a_worker_killed_during_a_backfill_leaves_no_run_unread(world: World, clock: Any) -> None:
    missed(world, 35)

    def die(call: str) -> None:
        if "cursor=20" in call:
            raise KeyboardInterrupt

    world.before_answer = die
    with pytest.raises(KeyboardInterrupt):
        read(world, clock)
    world.before_answer = lambda _: None
    assert 0 < len(unread(world)) <= 25
    read(world, clock)
    assert unread(world) == set()


def test_a_cursor_that_arize_rejects_restarts_the_backfill(world: World, clock: Any) -> None:
    missed(world, 35)
    world.fault = failing("cursor=20", 500)
    read(world, clock)
    world.fault = failing("cursor=20", 400)
    read(world, clock)
    assert Task.objects.get().gap_cursor == ""
    world.fault = lambda _: None
    read(world, clock)
    assert unread(world) == set()


@pytest.mark.slow
@pytest.mark.parametrize("arrive", [1, 4, 25])
def test_a_long_backfill_shows_the_newest_runs_in_each_round(arrive: int, world: World, clock: Any) -> None:
    """2,000 runs in pages of 10, while more arrive: 25 are more than fit on the newest page."""
    missed(world, 2_000)
    read(world, clock)
    rounds = 1
    while unread(world):
        missed(world, arrive)
        newest = [run["id"] for run in world.runs["T1"][:arrive]]
        read(world, clock, later=5)
        assert not set(newest) & unread(world)
        rounds += 1
        assert rounds < 40
    assert rounds > 15
    task = Task.objects.get()
    assert (task.gap_cursor, task.gap_since, task.searched_at) == ("", None, timezone.now())


def test_a_task_with_a_gap_does_not_count_as_searched(world: World, clock: Any) -> None:
    before = Task.objects.get().searched_at
    assert before == timezone.now()
    missed(world, 35)
    world.fault = failing("cursor=20", 500)
    read(world, clock)
    assert Task.objects.get().searched_at == before
    began = timezone.now()
    world.fault = lambda _: None
    missed(world, 3)
    clock.shift(100)
    read(world, clock, later=0)
    assert unread(world) == set()
    assert Task.objects.get().searched_at == timezone.now() > began


def test_the_first_reading_counts_as_a_search_once_older_active_runs_are_read(
    team: Team, arize: responses.RequestsMock, clock: Any
) -> None:
    world = World().install(arize)
    world.task("T1")
    for number in range(15):
        world.run(f"done{number}", status="COMPLETED", minute=number)
    world.page = 10
    world.fault = failing("status=", 500)
    make_credential(team)
    read(world, clock)
    assert Task.objects.get().searched_at is None
    world.fault = lambda _: None
    read(world, clock)
    assert Task.objects.get().searched_at is not None


def test_a_filter_that_was_only_half_asked_is_asked_again(
    team: Team, arize: responses.RequestsMock, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that wants lower case, and a minute without a call left to try it: the active runs below the newest page
    are not read, so they must not count as searched.
    """
    world = World().install(arize)
    world.task("T1")
    world.run("old", status="RUNNING", minute=1)
    for number in range(15):
        world.run(f"done{number}", status="COMPLETED", minute=number + 2)
    world.page = 10

    def in_lower_case(call: str) -> Any:
        if "status=" not in call:
            return None
        old = [run for run in world.runs["T1"] if run["id"] == "old" and "status=running" in call]
        answer = {"task_runs": old, "pagination": {"has_more": False}}
        return (
            (400, {}, "{}") if "status=RUNNING" in call or "status=PENDING" in call else (200, {}, json.dumps(answer))
        )

    world.fault = in_lower_case
    monkeypatch.setattr(ArizeClient, "_casing", StatusCasing())
    make_credential(team)
    take = Budget.take
    monkeypatch.setattr(Budget, "take", lambda budget, *kind: take(budget, *kind) if kind else False)  # for no retry
    for _ in range(2):
        read(world, clock)
    task = Task.objects.get()
    assert len([call for call in world.calls if "status=" in call]) == 2, "each in one spelling"
    assert (task.active_unread, task.searched_at) == (True, None)
    monkeypatch.setattr(Budget, "take", take)
    read(world, clock)
    assert Run.objects.filter(arize_id="old").exists()
    assert Task.objects.get().searched_at is not None


def test_a_page_that_repeats_is_passed_in_pages_of_another_size(world: World, clock: Any) -> None:
    """Arize returns the second page again and again, but only for pages of 100."""
    missed(world, 45)
    second = '{"task_runs": [{"id": "new36", "status": "COMPLETED"}], "pagination": {"next_cursor": "20"}}'
    world.fault = lambda call: (200, {}, second) if "cursor=20" in call and "limit=100" in call else None
    read(world, clock)
    task = Task.objects.get()
    assert (bool(unread(world)), task.runs_failed_at, task.active_unread) == (True, timezone.now(), True)
    assert task.searched_at < timezone.now()
    for _ in range(2):
        read(world, clock, later=31)
    task = Task.objects.get()
    assert (unread(world), task.gap_cursor, task.runs_failed_at) == (set(), "", None)


def test_active_runs_that_a_repeated_page_hides_are_read_by_their_status(world: World, clock: Any) -> None:
    world.run("hidden", status="RUNNING", minute=1)
    missed(world, 45)
    repeated = '{"task_runs": [], "pagination": {"next_cursor": "20"}}'
    world.fault = lambda call: (200, {}, repeated) if "cursor=20" in call else None
    read(world, clock)
    assert "hidden" in unread(world)
    read(world, clock, later=31)
    assert "hidden" not in unread(world)
    assert Task.objects.get().runs_failed_at is not None, "some runs are still unread"


def test_the_sweep_backfills_too(world: World, clock: Any) -> None:
    """A task whose `last_run_at` does not change may still have more new runs than fit on a page."""
    missed(world, 35)
    world.tasks["T1"]["last_run_at"] = "2026-11-23T00:00:00Z"
    read(world, clock)
    assert unread(world) == set()


def test_a_run_read_singly_does_not_hide_older_ones(world: World, clock: Any) -> None:
    missed(world, 6)
    clock.shift(1)
    newest = world.runs["T1"][0]
    task = Task.objects.get()
    known = {"team": task.team, "task": task, "endpoint": task.endpoint}
    Run.objects.create(
        **known, arize_id=newest["id"], status="completed", observed_at=timezone.now(), sorted_at=timezone.now()
    )
    world.page = 1
    read(world, clock)
    assert unread(world) == set()


def test_active_runs_below_the_newest_page_are_found_after_first_contact(
    team: Team, arize: responses.RequestsMock, clock: Any
) -> None:
    world = World().install(arize)
    world.task("T1")
    world.run("old-running")
    world.run("old-pending", status="PENDING")
    for number in range(1, 40):
        world.run(f"done{number}", status="COMPLETED", minute=number)
    world.page = 10
    make_credential(team)
    read(world, clock)
    assert set(Run.objects.filter(rank=1).values_list("arize_id", flat=True)) == {"old-running", "old-pending"}
    assert world.reads_of("status=RUNNING") == world.reads_of("status=PENDING") == 1
    read(world, clock)
    assert world.reads_of("status=") == 0, "once is enough"
    assert Run.objects.count() == 12, "older runs that have ended are read on demand"


@pytest.mark.parametrize(("status", "asked_again"), [(400, 0), (500, 1)])
def test_a_refused_status_filter_is_not_sent_again_and_again(
    status: int, asked_again: int, team: Team, arize: responses.RequestsMock, clock: Any
) -> None:
    world = World().install(arize)
    world.task("T1")
    for number in range(15):
        world.run(f"done{number}", status="COMPLETED", minute=number)
    world.page = 10
    world.fault = failing("status=", status)
    make_credential(team)
    read(world, clock)
    assert world.reads_of("status=") > 0
    assert (Task.objects.get().runs_failed_at is not None) == bool(asked_again), (
        "a refused filter is no failure of the task"
    )
    read(world, clock)
    assert (world.reads_of("status=") > 0) == bool(asked_again)
