"""Lists that repeat themselves: the panel says that they may be incomplete, and treats nothing as gone."""

from typing import Any

import pytest
import responses
from django.test import Client
from django.utils import timezone

from taskruns.arize.paging import Page
from taskruns.models import Credential, Task, Team, User
from taskruns.models.tasks import STILL_LISTED
from taskruns.services.credentials.expiry import read_expiry
from taskruns.services.mirror import refresh
from tests.clients import ClientOf
from tests.factories import make_credential
from tests.fake_arize import Fault, World

SAID = "The task list of Arize repeats itself, so some tasks may be missing here."


@pytest.fixture
def world(clock: Any, team: Team, arize: responses.RequestsMock) -> World:
    """Three tasks, read once, each with a run."""
    world = World().install(arize)
    for name in ("T1", "T2", "T3"):
        world.task(name, last_run_at="2026-11-23T00:00:00Z")
        world.run(f"run of {name}", name, "COMPLETED")
    make_credential(team)
    read(clock, 0)
    return world


@pytest.fixture
def browser(client_of: ClientOf, mona: User) -> Client:
    return client_of(mona)


def read(clock: Any, later: int = 61) -> None:
    clock.shift(later)
    Credential.objects.update(next_refresh_at=timezone.now())
    refresh(Credential.objects.get().pk)


def repeating(member: str, *ids: str) -> Fault:
    items = ", ".join(f'{{"id": "{id_}", "name": "Task {id_}", "status": "COMPLETED"}}' for id_ in ids)
    return 200, {}, f'{{"{member}": [{items}], "pagination": {{"has_more": true, "next_cursor": "again"}}}}'


def repeat(world: World, what: str, member: str, *ids: str) -> None:
    world.fault = lambda call: repeating(member, *ids) if f"/{what}?" in call else None


def whole(world: World) -> None:
    world.fault = lambda _: None


def test_tasks_beyond_the_repeated_page_stay_listed(world: World, clock: Any) -> None:
    repeat(world, "tasks", "tasks", "T1")
    for _ in range(7):
        read(clock)
    assert set(Task.objects.filter(STILL_LISTED).values_list("arize_id", flat=True)) == {"T1", "T2", "T3"}
    whole(world)
    del world.tasks["T3"]
    world.spaces["S1"].remove("T3")
    for _ in range(7):
        read(clock)
    assert set(Task.objects.filter(STILL_LISTED).values_list("arize_id", flat=True)) == {"T1", "T2"}, "the control"


def test_a_repeated_list_is_said_until_a_whole_one_comes(world: World, clock: Any, browser: Client) -> None:
    assert SAID not in browser.get("/teams/ops-north/runs/").content.decode()
    version = Team.objects.get().board_version
    repeat(world, "tasks", "tasks", "T1")
    read(clock)
    assert Team.objects.get().board_version > version, "open boards must learn of it"
    for url in ("/teams/ops-north/runs/", "/teams/ops-north/runs/table/", "/teams/ops-north/credentials/"):
        assert SAID in browser.get(url).content.decode()
    version = Team.objects.get().board_version
    read(clock)
    assert Team.objects.get().board_version == version, "nothing has changed"
    whole(world)
    read(clock)
    assert Credential.objects.get().list_problem == ""
    for url in ("/teams/ops-north/runs/", "/teams/ops-north/credentials/"):
        assert SAID not in browser.get(url).content.decode()


def test_a_repeated_list_is_read_once_a_minute(world: World, clock: Any) -> None:
    repeat(world, "tasks", "tasks", "T1")
    read(clock)
    world.calls.clear()
    for _ in range(6):
        read(clock, 5)
    assert world.reads_of("/v2/tasks?") == 0
    read(clock, 31)
    assert world.reads_of("/v2/tasks?") == 2
    assert Credential.objects.get().backoff_until is None


def test_new_tasks_of_a_repeated_list_are_kept(world: World, clock: Any) -> None:
    world.task("T4")
    repeat(world, "tasks", "tasks", "T4")
    read(clock)
    assert Task.objects.filter(arize_id="T4").exists()


def test_repeated_spaces_lose_no_task(world: World, clock: Any) -> None:
    """The list without a space shows the tasks of all spaces."""
    world.task("far", space="S2")
    repeat(world, "spaces", "spaces", "S1")
    read(clock)
    assert Task.objects.filter(arize_id="far").exists()
    key = Credential.objects.get()
    assert key.list_problem == ""
    assert [space["name"] for space in key.spaces] == ["Space S1"], "what was there is kept"


def test_repeated_runs_do_not_count_as_all_runs(world: World, clock: Any) -> None:
    caught_up = Task.objects.get(arize_id="T1").caught_up_at
    world.tasks["T1"]["last_run_at"] = "2026-11-23T01:00:00Z"
    repeat(world, "T1/runs", "task_runs", "new")
    read(clock)
    task = Task.objects.get(arize_id="T1")
    assert task.runs.filter(arize_id="new").exists()
    assert task.caught_up_at == caught_up
    assert task.runs_failed_at is not None
    whole(world)
    for number in range(3):
        world.run(f"missed {number}", "T1", "COMPLETED", minute=number)
    world.page = 1
    read(clock)
    task = Task.objects.get(arize_id="T1")
    assert set(task.runs.values_list("arize_id", flat=True)) >= {f"missed {number}" for number in range(3)}
    assert task.runs_failed_at is None
    assert task.caught_up_at > caught_up


def test_a_deep_list_of_runs_that_repeats_is_not_read_for_ever(world: World, clock: Any) -> None:
    """A backfill that continues in the next round notices when Arize returns its own cursor."""
    Task.objects.filter(arize_id="T1").update(gap_cursor="again", gap_since=timezone.now())
    repeat(world, "T1/runs", "task_runs", "new")
    world.calls.clear()
    read(clock)
    assert world.reads_of("T1/runs") <= 3
    assert Task.objects.get(arize_id="T1").gap_cursor == ""
    world.calls.clear()
    for _ in range(5):
        read(clock, 5)
    assert world.reads_of("cursor") == 0, "only the newest page is read for a while"


def test_a_repeated_list_of_keys_proves_no_expiry() -> None:
    class Repeating:
        def list_api_keys(self, **_: Any) -> Any:
            return Page(items=(), next_cursor="again")

    assert read_expiry(Repeating(), []) is None  # type: ignore[arg-type]
