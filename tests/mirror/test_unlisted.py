"""Runs and tasks that no list shows: runs found by a link, runs of unknown status, tasks missing from Arize."""

import json
import re
from collections import Counter
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import Credential, Run, Task, Team, User
from taskruns.models.tasks import STILL_LISTED, UNLISTED_AFTER
from taskruns.services import credentials
from taskruns.services.mirror import find_by_arize_id, refresh
from tests.clients import ClientOf
from tests.factories import make_credential
from tests.fake_arize import World


@pytest.fixture
def taskless(credential: Credential, world: World) -> list[Run]:
    """Two runs that Arize returns without their task."""
    world.task("T1")
    hide_tasks(world)
    found = [find_by_arize_id(credential.team, world.run(f"R{number}")["id"]) for number in range(2)]
    runs = [run for run in found if run is not None]
    assert [run.task.arize_id for run in runs] == ["", ""]
    return runs


def hide_tasks(world: World) -> None:
    """From now on Arize returns single runs without their task."""

    def answer(call: str) -> Any:
        run = world.find(call.rsplit("/", 1)[1]) if "/task-runs/" in call else None
        members = {name: value for name, value in run.items() if name != "task_id"} if run else {}
        return (200, {}, json.dumps(members)) if run else None

    world.fault = answer


def round_later(credential: Credential, clock: Any, seconds: int = 61) -> None:
    clock.shift(seconds)
    Credential.objects.update(next_refresh_at=timezone.now())
    assert refresh(credential.pk) is not None


def test_runs_of_a_nameless_task_are_followed(
    taskless: list[Run], credential: Credential, world: World, clock: Any
) -> None:
    world.tasks.clear()
    world.spaces.clear()
    for run in world.runs["T1"]:
        run["status"] = "COMPLETED"
    round_later(credential, clock)
    assert set(Run.objects.values_list("status", flat=True)) == {"completed"}


def test_a_run_moves_to_its_task_when_a_list_names_it(
    taskless: list[Run], credential: Credential, world: World, clock: Any
) -> None:
    before = Team.objects.get().board_version
    round_later(credential, clock)
    assert set(Run.objects.values_list("pk", "task__arize_id")) == {(run.pk, "T1") for run in taskless}
    assert Team.objects.get().board_version > before


def test_a_run_in_two_lists_stays_with_its_task(credential: Credential, world: World, clock: Any) -> None:
    world.task("T1")
    world.run("R1")
    round_later(credential, clock)
    world.task("T2")
    world.runs["T2"] = world.runs["T1"]
    round_later(credential, clock)
    assert Run.objects.get().task.arize_id == "T1"


def test_another_key_takes_over_the_nameless_task(
    taskless: list[Run], credential: Credential, world: World, clock: Any
) -> None:
    credentials.revoke(credential, by=Actor.command())
    second = make_credential(credential.team, name="Second")
    world.run("R9")
    find_by_arize_id(credential.team, "R9")
    assert Task.objects.get(arize_id="").credential == second


def test_tasks_missing_from_arize_are_not_read_until_they_return(
    credential: Credential, world: World, clock: Any, vera: User, client_of: ClientOf
) -> None:
    board = client_of(vera)
    for task in ("T1", "T2"):
        world.task(task, last_run_at="2026-11-23T00:00:00Z")
    world.run("R2", "T2")
    round_later(credential, clock)
    world.spaces["S1"] = ["T1"]
    Task.objects.filter(arize_id="T2").update(last_run_at=timezone.now())  # as if it had changed just before
    for _ in range(6):
        round_later(credential, clock)
    world.calls.clear()
    round_later(credential, clock)
    assert (world.reads_of("T1/runs"), world.reads_of("T2/runs")) == (1, 0)
    assert offered(board) == {"T1"}
    assert Run.objects.get().status == "gone", "an active run is followed to its end"
    world.spaces["S1"] = ["T1", "T2"]
    world.run("R3", "T2")
    round_later(credential, clock)
    assert offered(board) == {"T1", "T2"}
    assert Run.objects.get(arize_id="R3").status == "running"


def offered(client: Client) -> set[str]:
    html = client.get("/teams/ops-north/runs/").content.decode()
    select = re.search(r'<select id="filter-task".*?</select>', html, re.DOTALL)
    assert select is not None
    return set(re.findall(r'value="(T\d)"', select.group()))


def test_a_list_that_takes_many_rounds_leaves_nothing_out(
    credential: Credential, world: World, clock: Any, settings: Any
) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 3
    world.page = 1
    for number in range(30):
        world.task(f"T{number}")
    began = timezone.now()
    while Credential.objects.get().tasks_read_at is None:
        round_later(credential, clock, 60)
    assert timezone.now() - began > UNLISTED_AFTER
    assert Task.objects.filter(STILL_LISTED).count() == 30


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 500])
def test_runs_of_unknown_status_are_read_again_rarely_and_a_few_at_a_time(
    status: int, credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1")
    for number in range(25):
        world.run(f"R{number}", status="PAUSED")
    round_later(credential, clock)
    world.runs["T2"], world.runs["T1"] = world.runs["T1"], []  # no list contains them now
    world.fault = lambda call: None if status == 200 or "task-runs" not in call else (status, {}, "")
    read_at: dict[str, list[int]] = {}
    for second in range(0, 900, 10):
        world.calls.clear()
        round_later(credential, clock, 10)
        for run_id in {path.split("/")[1] for path in world.paths() if path.startswith("task-runs/")}:
            read_at.setdefault(run_id, []).append(second)
    assert max(Counter(second for seconds in read_at.values() for second in seconds).values()) <= 10
    assert max(map(len, read_at.values())) <= 900 / 180
    assert len(read_at) == 25 or status == 500, "faults end a round"


def test_a_run_of_unknown_status_is_read_to_its_end(credential: Credential, world: World, clock: Any) -> None:
    world.task("T1")
    run = world.run("R1", status="PAUSED")
    world.run("R2", status="PAUSED")
    round_later(credential, clock)
    world.page = 0  # the lists are empty
    run["status"] = "COMPLETED"
    world.runs["T1"].pop(0)
    round_later(credential, clock, 181)
    assert dict(Run.objects.values_list("arize_id", "status")) == {"R1": "completed", "R2": "gone"}
