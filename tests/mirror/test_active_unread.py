"""Active runs below the newest page of a task are found after its first reading, however many there are."""

import json
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.utils import timezone

from taskruns.models import Credential, Run, Task, Team
from taskruns.services.mirror import due, refresh
from taskruns.services.mirror.task_runs import MOST_PAGES
from taskruns.services.runs.ends import NEWS_FOR, is_news
from tests.factories import make_credential
from tests.fake_arize import World, failing


@pytest.fixture
def world(clock: Any, team: Team, arize: responses.RequestsMock) -> World:
    """A task with active runs on four pages, below runs that have ended."""
    make_credential(team)
    world = World(page=10).install(arize)
    fill(world, "T1")
    return world


def fill(world: World, task: str, *, active: int = 35, ended: int = 15) -> None:
    world.task(task, last_run_at="2026-11-23T02:00:00Z")
    for number in range(active):
        world.run(f"{task} active {number}", task, "PENDING" if number % 9 == 8 else "RUNNING", minute=number)
    for number in range(ended):
        world.run(f"{task} ended {number}", task, "COMPLETED", minute=60 + number)


def read(clock: Any, *, later: int = 5) -> None:
    clock.shift(later)
    Credential.objects.update(next_refresh_at=timezone.now(), backoff_until=None)
    assert refresh(Credential.objects.get().pk) is not None


def unread(world: World) -> set[str]:
    active = {run["id"] for runs in world.runs.values() for run in runs if run["status"] in {"RUNNING", "PENDING"}}
    return active - set(Run.objects.values_list("arize_id", flat=True))


def searched() -> int:
    return Task.objects.filter(searched_at__isnull=False).count()


def test_active_runs_on_many_pages_are_all_read(world: World, clock: Any) -> None:
    read(clock)
    assert (unread(world), searched()) == (set(), 1)
    assert world.reads_of("status=RUNNING") == 4
    read(clock)
    assert world.reads_of("status=RUNNING") == 4, "once is enough"


def test_a_task_is_not_searched_before_its_last_page_is_read(world: World, clock: Any) -> None:
    world.fault = lambda call: (500, {}, "") if "status=" in call and "cursor=20" in call else None
    read(clock)
    assert (bool(unread(world)), searched()) == (True, 0)
    world.fault = lambda _: None
    read(clock, later=31)
    assert (unread(world), searched()) == (set(), 1)


@pytest.mark.parametrize("fault", ["refused", "repeats"])
def test_without_lists_by_status_all_runs_are_read(fault: str, world: World, clock: Any) -> None:
    again = json.dumps({"task_runs": [], "pagination": {"has_more": True, "next_cursor": "again"}})
    answer = (400, {}, "") if fault == "refused" else (200, {}, again)
    world.fault = lambda call: answer if "status=" in call else failing("cursor=20", 500)(call)
    read(clock)
    assert (bool(unread(world)), searched()) == (True, 0)
    assert not is_news(Task.objects.get(), timezone.now() - NEWS_FOR - timedelta(minutes=1)), "old ends are history"
    world.fault = lambda call: answer if "status=" in call else None
    asked = world.reads_of("status=")
    read(clock, later=31)
    assert (unread(world), searched()) == (set(), 1)
    task = Task.objects.get()
    assert (task.gap_cursor, task.active_unread, task.caught_up_at) == ("", False, timezone.now())
    assert world.reads_of("status=") == asked <= 8, "its lists are not read again and again"


def test_a_list_by_status_that_takes_too_long_leaves_other_tasks_their_turn(world: World, clock: Any) -> None:
    fill(world, "T0", active=300)
    Credential.objects.update(first_contact_done_at=timezone.now())
    world.page = 5
    read(clock)
    assert world.reads_of("T0/runs?status=RUNNING") == MOST_PAGES
    assert not {run for run in unread(world) if run.startswith("T1")}
    for _ in range(12):
        read(clock)
    assert (unread(world), searched()) == (set(), 2)


@pytest.mark.slow
def test_a_small_rate_limit_finds_all_active_runs_too(world: World, clock: Any, settings: Any) -> None:
    """No round has the calls for all pages, and the next one would begin again."""
    settings.ARIZE_CALLS_PER_MINUTE = 30
    world.page = 5
    fill(world, "T2")
    for _ in range(80):
        clock.shift(30)
        for key in due(timezone.now()):
            refresh(key)
        assert searched() < 2 or not unread(world)
        if searched() == 2:
            break
    assert (unread(world), searched()) == (set(), 2)
