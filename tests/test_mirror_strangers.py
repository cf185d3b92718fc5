"""Runs met by a link before anything named their task, and tasks that are gone from Arize."""

import json
from datetime import datetime
from typing import Any

import pytest
import responses
import time_machine
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import Credential, Run, Task, Team
from taskruns.services import credentials
from taskruns.services.mirror import find_by_arize_id, refresh
from tests.arize_world import World
from tests.conftest import make_credential

START = datetime.fromisoformat("2026-11-23T03:00:00+00:00")


@pytest.fixture
def world(arize: responses.RequestsMock) -> World:
    return World().speak(arize)


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def credential(clock: Any, team: Team) -> Credential:
    return make_credential(team)


@pytest.fixture
def strangers(credential: Credential, world: World) -> list[Run]:
    """Two runs that Arize tells without their task."""
    world.task("T1")
    tell_no_tasks(world)
    found = [find_by_arize_id(credential.team, world.run(f"R{number}")["id"]) for number in range(2)]
    runs = [run for run in found if run is not None]
    assert [run.task.arize_id for run in runs] == ["", ""]
    return runs


def tell_no_tasks(world: World) -> None:
    """From now on single runs are told without their task."""

    def answer(call: str) -> Any:
        run = world.find(call.rsplit("/", 1)[1]) if "/task-runs/" in call else None
        members = {name: value for name, value in run.items() if name != "task_id"} if run else {}
        return (200, {}, json.dumps(members)) if run else None

    world.fault = answer


def later(credential: Credential, clock: Any, seconds: int = 61) -> None:
    clock.shift(seconds)
    Credential.objects.update(next_refresh_at=timezone.now())
    assert refresh(credential.pk) is not None


def test_runs_of_a_nameless_task_are_followed(
    strangers: list[Run], credential: Credential, world: World, clock: Any
) -> None:
    world.tasks.clear()
    world.spaces.clear()
    for run in world.runs["T1"]:
        run["status"] = "COMPLETED"
    later(credential, clock)
    assert set(Run.objects.values_list("status", flat=True)) == {"completed"}


def test_a_run_moves_to_its_task_when_a_list_names_it(
    strangers: list[Run], credential: Credential, world: World, clock: Any
) -> None:
    before = Team.objects.get().board_version
    later(credential, clock)
    assert set(Run.objects.values_list("pk", "task__arize_id")) == {(run.pk, "T1") for run in strangers}
    assert Team.objects.get().board_version > before


def test_a_run_that_two_lists_name_does_not_wander(credential: Credential, world: World, clock: Any) -> None:
    world.task("T1")
    world.run("R1")
    later(credential, clock)
    world.task("T2")
    world.runs["T2"] = world.runs["T1"]
    later(credential, clock)
    assert Run.objects.get().task.arize_id == "T1"


def test_another_key_takes_over_the_nameless_task(
    strangers: list[Run], credential: Credential, world: World, clock: Any
) -> None:
    credentials.revoke(credential, by=Actor.command())
    second = make_credential(credential.team, name="Second")
    world.run("R9")
    find_by_arize_id(credential.team, "R9")
    assert Task.objects.get(arize_id="").credential == second
