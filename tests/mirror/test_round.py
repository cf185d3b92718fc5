"""One round of reading: which calls it makes, in which order, and what the mirror holds afterwards."""

import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from taskruns.models import Cancellation, Credential, Run, Task, Team
from taskruns.services.mirror import RoundReport, refresh
from tests.fake_arize import World, failing

Round = Callable[..., RoundReport]


@pytest.fixture
def read(credential: Credential, world: World) -> Round:
    """Run one round `later` seconds from now, regardless of the pace. Only its calls are recorded."""

    def read(*, later: float = 0) -> RoundReport:
        world.calls.clear()
        Credential.objects.update(next_refresh_at=timezone.now())
        with time_machine.travel(timezone.now() + timedelta(seconds=later)):
            report = refresh(credential.pk)
        assert report is not None
        return report

    return read


def statuses() -> dict[str, str]:
    return dict(Run.objects.values_list("arize_id", "status"))


def test_first_contact_reads_spaces_tasks_and_the_newest_page_of_each(world: World, read: Round) -> None:
    world.task("T1", space="S1")
    world.task("T2", space="S2", name="Toxicity", type="code_evaluation", is_continuous=True)
    for number in range(150):
        world.run(f"R{number}", "T1", "COMPLETED", minute=number)
    world.run("Q1", "T2", "running")
    report = read()
    assert (report.problem, report.tasks, report.changed) == ("", 2, 103)
    assert world.paths()[:3] == ["spaces", "tasks", "tasks"]
    assert sorted(world.paths()[3:5]) == ["tasks/T1/runs", "tasks/T2/runs"]
    assert world.paths()[5:] == ["tasks/T1/runs"] * 2, "T1's older active runs: one call per status"
    assert [call for call in world.calls if "space_id" in call] == [
        "/v2/tasks?space_id=S1&limit=100",
        "/v2/tasks?space_id=S2&limit=100",
    ]
    assert set(statuses()) == {f"R{number}" for number in range(50, 150)} | {"Q1"}
    toxicity = Task.objects.get(arize_id="T2")
    assert (toxicity.name, toxicity.type, toxicity.is_continuous) == ("Toxicity", "code_evaluation", True)
    assert (toxicity.space_id, toxicity.space_name) == ("S2", "Space S2")
    assert report.calls == len(world.calls) == 7


def test_a_round_reads_in_order_of_importance(world: World, read: Round) -> None:
    world.task("T1")
    world.task("T2")
    world.task("T3", last_run_at="2026-11-23T00:00:00Z")
    for run_id, task in (("A1", "T1"), ("A2", "T1"), ("B1", "T2"), ("C1", "T3")):
        world.run(run_id, task)
    read()
    stopping = Run.objects.get(arize_id="C1")
    Cancellation.objects.create(run=stopping, person_label="oli", stopping_since=timezone.now())
    Run.objects.filter(arize_id="C1").update(rank=0)  # read only because of its cancellation
    world.tasks["T3"]["last_run_at"] = "2026-11-23T02:00:00Z"
    read(later=61)
    paths = world.paths()
    # The two calls for active runs are made in parallel.
    assert (sorted(paths[:2]), paths[2]) == (["tasks/T1/runs", "tasks/T2/runs"], "task-runs/C1")
    assert paths[3:] == ["spaces", "tasks", "tasks/T3/runs"]


def test_two_active_runs_of_a_task_cost_one_list_and_one_single_read(world: World, read: Round) -> None:
    world.task("T1")
    world.page = 2
    old, new = world.run("old"), world.run("new")
    read()
    for number in range(3):
        world.run(f"done{number}", status="COMPLETED")
    old["status"] = new["status"] = "COMPLETED"
    read(later=6)
    assert world.paths()[0] == "tasks/T1/runs"
    assert sorted(world.paths()[1:3]) == ["task-runs/new", "task-runs/old"]
    assert (statuses()["old"], statuses()["new"]) == ("completed", "completed")


def test_tasks_are_listed_once_a_minute(world: World, read: Round) -> None:
    world.task("T1")
    read()
    read(later=30)
    assert world.reads_of("/v2/tasks?") == world.reads_of("spaces") == 0
    read(later=61)
    assert (world.reads_of("/v2/tasks?"), world.reads_of("spaces")) == (1, 1)


def test_a_changed_task_is_read_page_by_page_until_a_known_run(world: World, read: Round) -> None:
    world.task("T1", last_run_at="2026-11-23T00:00:00Z")
    world.run("known", status="COMPLETED")
    read()
    world.page = 10
    for number in range(35):
        world.run(f"new{number}", status="COMPLETED", minute=number + 1)
    world.tasks["T1"]["last_run_at"] = "2026-11-23T00:35:00Z"
    read(later=61)
    assert [call for call in world.calls if "T1/runs" in call] == [
        "/v2/tasks/T1/runs?limit=100",
        *(f"/v2/tasks/T1/runs?limit=100&cursor={start}" for start in (10, 20, 30)),
    ]
    assert len(statuses()) == 36
    read(later=130)
    assert world.reads_of("cursor") == 0


def test_the_sweep_reads_at_most_ten_tasks_a_minute_the_oldest_first(world: World, read: Round) -> None:
    for number in range(25):
        world.task(f"T{number:02}")
    read()
    read(later=10)
    first = {path for path in world.paths() if path.endswith("/runs")}
    assert len(first) == 10
    read(later=20)
    assert world.calls == []
    read(later=71)
    second = {path for path in world.paths() if path.endswith("/runs")}
    assert len(second) == 10
    assert not first & second


def test_the_sweep_finds_a_new_run_that_no_hint_announced(world: World, read: Round) -> None:
    world.task("T1")
    read()
    world.run("quiet", status="PENDING")
    read(later=6)
    assert statuses() == {"quiet": "pending"}


@pytest.mark.parametrize("active", [1, 2])
def test_an_active_run_that_answers_404_is_gone_and_comes_back(active: int, world: World, read: Round) -> None:
    world.task("T1")
    runs = [world.run(f"R{number}") for number in range(active)]
    world.run("ended", status="COMPLETED")
    read()
    world.runs["T1"] = []
    read(later=6)
    assert statuses() == {run["id"]: "gone" for run in runs} | {"ended": "completed"}
    assert not Run.objects.filter(status="gone", gone_since=None).exists()
    world.runs["T1"] = runs
    read(later=12)
    assert statuses()["R0"] == "running"
    assert Run.objects.get(arize_id="R0").gone_since is None


@pytest.mark.parametrize("fault", [403, 404])
def test_a_refused_space_falls_back_to_all_tasks(fault: int, world: World, read: Round) -> None:
    world.task("T1", space="S1")
    world.task("T2", space="S2")
    world.fault = failing("space_id=S2", fault)
    assert read().problem == ""
    assert [call for call in world.calls if call.startswith("/v2/tasks?")] == [
        "/v2/tasks?space_id=S1&limit=100",
        "/v2/tasks?space_id=S2&limit=100",
        "/v2/tasks?limit=100",
    ]
    assert dict(Task.objects.values_list("arize_id", "space_id")) == {"T1": "S1", "T2": ""}


@pytest.mark.parametrize("fault", [403, 404, None])
def test_without_any_space_all_tasks_are_listed_at_once(fault: int | None, world: World, read: Round) -> None:
    world.task("T1")
    world.fault = failing("spaces", fault) if fault else lambda _: None
    world.sees = {} if fault else {"nobody": set()}
    if fault is None:
        world.fault = lambda call: (200, {}, '{"spaces": []}') if "spaces" in call else None
    read()
    assert world.paths()[:2] == ["spaces", "tasks"]
    assert Task.objects.get().arize_id == "T1"


def test_tasks_keep_their_space_if_the_server_ignores_the_filter(world: World, read: Round, team: Team) -> None:
    for space in ("S1", "S2"):
        world.spaces[space] = ["T1", "T2"]
    world.task("T1", space="S1")
    world.task("T2", space="S1")
    read()
    assert set(Task.objects.values_list("space_name", flat=True)) == {""}
    version = Team.objects.get().board_version
    Credential.objects.update(tasks_read_at=None)
    assert read().changed == 0
    assert Team.objects.get().board_version == version


@pytest.mark.parametrize("what", ["spaces", "tasks"])
def test_a_repeating_cursor_ends_the_task_list(what: str, world: World, read: Round) -> None:
    world.task("T1")
    items = '[{"id": "S1"}]' if what == "spaces" else '[{"id": "T1", "name": "Loop"}]'
    body = f'{{"{what}": {items}, "pagination": {{"has_more": true, "next_cursor": "again"}}}}'
    world.fault = lambda call: (200, {}, body) if call.startswith(f"/v2/{what}?") else None
    assert read().problem == ""
    assert world.reads_of(f"/v2/{what}?") == 2
    assert Task.objects.get().arize_id == "T1"


def test_a_repeating_cursor_ends_the_backfill(world: World, read: Round) -> None:
    world.task("T1", last_run_at="2026-11-23T00:00:00Z")
    read()
    world.tasks["T1"]["last_run_at"] = "2026-11-23T01:00:00Z"
    body = '{"task_runs": [], "pagination": {"has_more": true, "next_cursor": "again"}}'
    world.fault = lambda call: (200, {}, body) if "T1/runs" in call else None
    read(later=61)
    assert world.reads_of("T1/runs") == 2


def test_a_renamed_task_is_renamed_here(world: World, read: Round) -> None:
    world.task("T1")
    read()
    world.tasks["T1"]["name"] = "Better name"
    read(later=61)
    assert Task.objects.get().name == "Better name"
    del world.tasks["T1"]["name"]
    read(later=130)
    assert Task.objects.get().name == "Better name"


@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_values_in_upper_and_lower_case_are_read(case: Callable[[str], str], world: World, read: Round) -> None:
    world.task("T1", type=case("CODE_EVALUATION"))
    words = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
    for word in words:
        world.run(word, status=case(word))
    read()
    assert statuses() == {word: word.lower() for word in words}
    assert Task.objects.get().type == "code_evaluation"


def test_odd_values_of_old_servers_are_read(world: World, read: Round) -> None:
    world.task("T1")
    world.tasks["T1"] = {"id": "T1"}
    big = "x" * 400_000
    world.runs["T1"] = [
        {"id": "bare"},
        {"id": "null", **dict.fromkeys(("status", "task_id", "created_at", "num_errors", "failure_reason"))},
        {"id": "odd", "status": "PAUSED", "created_at": "yesterday", "num_errors": "many"},
        {"id": "text", "status": "FAILED", "failure_reason": f"\0\ud800{big}", "experiment_id": "E\0"},
        {"status": "RUNNING"},
        "no object",
        {"id": f"long{big}", "status": "RUNNING"},
    ]
    assert read().problem == ""
    assert statuses() == {"bare": "unknown", "null": "unknown", "odd": "unknown", "text": "failed"}
    text = Run.objects.get(arize_id="text")
    assert text.failure_reason == f"\ufffd{big}"
    assert text.experiment_id == "E"


def test_very_long_ids_and_names_do_not_hide_other_tasks(world: World, read: Round) -> None:
    world.task("T1", name="\0 name" + "x" * 1_000_000)
    world.task("".join(chr(33 + (i * i * 31 + i // 7) % 90) for i in range(3_000)))
    world.run("R1")
    assert read().problem == ""
    task = Task.objects.get()
    assert (task.arize_id, len(task.name)) == ("T1", 1_000_005)
    assert statuses() == {"R1": "running"}


def test_an_unknown_status_is_followed_until_it_is_known(world: World, read: Round) -> None:
    world.task("T1")
    run = world.run("R1", status="PAUSED")
    read()
    run["status"] = "COMPLETED"
    read(later=6)
    assert statuses() == {"R1": "completed"}


def test_a_round_without_change_or_trouble_is_logged_for_debugging_only(
    world: World, read: Round, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty watched keys make four rounds a second."""
    caplog.set_level(logging.DEBUG, "taskruns")

    def levels() -> list[int]:
        found = [record.levelno for record in caplog.records if "mirror_round" in str(record.msg)]
        caplog.clear()
        return found

    world.task("T1")
    world.run("R1", "T1", "RUNNING")
    read()
    assert levels() == [logging.INFO], "it found a run"
    read(later=6)
    assert levels() == [logging.DEBUG]
    world.fault = failing("T1/runs", 503)
    read(later=12)
    assert levels() == [logging.INFO], "with its problem"
