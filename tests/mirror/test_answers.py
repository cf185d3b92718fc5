"""Which answers of Arize count: a round that met only refusals has read nothing."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskruns.models import ArizeUser, Credential, Run, Status, Task
from taskruns.services.mirror import RoundReport, refresh
from tests.factories import make_run
from tests.fake_arize import START, Fault, World, failing

EARLIER = START - timedelta(days=1)
NO_ANSWERS: dict[str, Fault] = {
    "redirect": (302, {"Location": "https://login.example.com/"}, ""),
    "400": (400, {}, ""),
    "403": (403, {}, ""),
    "404 of a web server": (404, {"Content-Type": "text/html"}, "<html>Not found</html>"),
    "418": (418, {}, ""),
}


def report_of(report: RoundReport | None) -> RoundReport:
    assert report is not None
    return report


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_a_round_with_only_refusals_is_a_problem(kind: str, credential: Credential, world: World) -> None:
    Credential.objects.update(failing_since=EARLIER, failing_reason="rejected", last_good_at=EARLIER)
    world.task("T1")
    world.fault = lambda _: NO_ANSWERS[kind]
    report = report_of(refresh(credential.pk, force=True))
    assert report.problem.endswith(".")
    credential.refresh_from_db()
    assert (credential.failing_since, credential.failing_reason) == (EARLIER, "rejected")
    assert (credential.last_good_at, credential.tasks_read_at) == (EARLIER, None)
    assert credential.backoff_until is not None
    assert credential.backoff_reason == report.problem
    with pytest.raises(CommandError, match="1 of 1 API keys failed"):
        call_command("refresh", credential.team.slug)
    world.fault = lambda _: None
    assert report_of(refresh(credential.pk, force=True)).problem == ""
    credential.refresh_from_db()
    assert (credential.failing_since, credential.failing_reason, credential.last_good_at) == (None, "", START)
    assert (credential.backoff_until, credential.failures) == (None, 0)


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_refused_spaces_are_no_problem_if_all_tasks_can_be_listed(
    status: int, credential: Credential, world: World
) -> None:
    world.task("T1")
    world.fault = failing("space_id", status)
    assert report_of(refresh(credential.pk)).problem == ""
    assert Task.objects.get().arize_id == "T1"
    credential.refresh_from_db()
    assert credential.tasks_read_at == START


@pytest.mark.parametrize("status", [302, 400, 403, 404, 422, 500])
def test_a_refused_task_list_is_a_problem_but_known_runs_are_still_read(
    status: int, credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1")
    run = world.run("R1")
    refresh(credential.pk)
    run["status"] = "COMPLETED"
    world.fault = failing("/v2/tasks?", status)
    clock.shift(400)
    assert str(status) in report_of(refresh(credential.pk)).problem
    assert Run.objects.get().status == "completed"
    credential.refresh_from_db()
    assert credential.tasks_read_at == START
    assert credential.last_good_at == timezone.now(), "the runs were answered"
    assert (credential.backoff_until, credential.list_problem != "") == (None, True), "only the list waits"


@pytest.mark.parametrize("status", [403, 404])
def test_a_key_for_single_spaces_is_healthy_without_access_to_the_rest(
    status: int, credential: Credential, world: World
) -> None:
    world.task("T1", space="S1")
    world.task("T2", space="S2")
    world.fault = lambda call: (status, {}, "") if "space_id=S1" not in call and "/v2/tasks?" in call else None
    assert report_of(refresh(credential.pk)).problem == ""
    assert Task.objects.get().arize_id == "T1"
    credential.refresh_from_db()
    assert credential.tasks_read_at == START


def test_the_list_of_spaces_is_incomplete_if_a_page_is_missing(credential: Credential, world: World) -> None:
    world.page = 1
    world.task("T1", space="S1")
    world.task("T2", space="S2")
    world.fault = failing("spaces?limit=100&cursor", 404)
    assert report_of(refresh(credential.pk)).problem == ""
    assert set(Task.objects.values_list("arize_id", flat=True)) == {"T1", "T2"}


def test_a_missing_run_does_not_mean_that_the_server_is_not_arize(
    credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1")
    world.run("R1")
    refresh(credential.pk)
    world.runs["T1"] = []
    clock.shift(31)
    Task.objects.update(runs_read_at=timezone.now())
    world.calls.clear()
    assert report_of(refresh(credential.pk)).problem == ""
    assert world.paths() == ["tasks/T1/runs", "task-runs/R1"]
    assert Run.objects.get().status == "gone"


def test_refused_user_names_are_no_problem(credential: Credential, world: World) -> None:
    task = Task.objects.create(
        team=credential.team, endpoint=credential.endpoint, arize_id="T1", credential=credential, runs_read_at=START
    )
    make_run(task, status=Status.COMPLETED)
    ArizeUser.objects.create(team=credential.team, endpoint=credential.endpoint, arize_id="U1")
    Credential.objects.update(tasks_read_at=START)
    world.fault = failing("users", 404)
    assert report_of(refresh(credential.pk)).problem == ""
    assert world.paths() == ["users/U1"]


@pytest.mark.parametrize("what", ["spaces", "tasks", "T1/runs"])
def test_a_list_that_repeats_itself_with_new_cursors_ends(
    what: str, credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1", last_run_at="2026-11-23T00:00:00Z")
    world.run("known", status="COMPLETED")
    refresh(credential.pk)
    clock.shift(400)
    world.calls.clear()
    world.tasks["T1"]["last_run_at"] = "2026-11-23T01:00:00Z"
    bodies = {"spaces": '"spaces": [{"id": "S1"}]', "tasks": '"tasks": [{"id": "T1", "name": "T"}]'}
    body = bodies.get(what, '"task_runs": [{"id": "new", "status": "COMPLETED"}]')
    world.fault = lambda call: repeated(body, world) if f"/{what}?" in call else None
    assert report_of(refresh(credential.pk)).problem == ""
    assert world.reads_of(f"/{what}?") == 2


def repeated(body: str, world: World) -> tuple[int, dict[str, str], str]:
    return 200, {}, f'{{{body}, "pagination": {{"has_more": true, "next_cursor": "c{len(world.calls)}"}}}}'


def test_an_answer_without_members_is_an_empty_account(credential: Credential, world: World) -> None:
    world.fault = lambda _: (200, {}, "{}")
    report = report_of(refresh(credential.pk))
    assert (report.problem, report.tasks, report.changed) == ("", 0, 0)


def test_a_cursor_is_followed_even_if_has_more_is_false(credential: Credential, world: World) -> None:
    def answer(call: str) -> tuple[int, dict[str, str], str] | None:
        if not call.startswith("/v2/spaces"):
            return None
        second = "cursor" in call
        pagination = "" if second else ', "pagination": {"has_more": false, "next_cursor": "c2"}'
        return 200, {}, f'{{"spaces": [{{"id": "S{1 + second}"}}]{pagination}}}'

    world.task("T1", space="S1")
    world.task("T2", space="S2")
    world.fault = answer
    refresh(credential.pk)
    assert dict(Task.objects.values_list("arize_id", "space_id")) == {"T1": "S1", "T2": "S2"}
