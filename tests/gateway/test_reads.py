"""GETs pass through: what arrives at Arize, what comes back, and what the mirror learns from it."""

import json
from typing import Any

import pytest
import responses
from django.utils import timezone

from taskruns.models import Credential, Run, Status, Task
from taskruns.services.credentials.client import forget_kept
from taskruns.services.gateway import passing
from tests.access.fence import missing_from
from tests.factories import CANARY, make_credential, make_run
from tests.fake_arize import World
from tests.gateway.scripts import OFFERED, Script, problem_of
from tests.wire import ENDPOINT, run_url, wire_run


@pytest.mark.parametrize("path", OFFERED)
def test_offered_get_passes_with_status_body_and_type(path: str, script: Script, arize: responses.RequestsMock):
    url, body = f"{ENDPOINT}/v2/{path.replace('=', '%3D')}", b'{"x":  1.0, "y": "\xc3\xa4"}'
    arize.get(url, body=body, status=203, content_type="application/json; charset=utf-8")
    found = script.get(path)
    assert (found.status_code, found.content) == (203, body)
    assert found["Content-Type"] == "application/json; charset=utf-8"
    sent = arize.calls[0].request
    assert sent.headers["Authorization"] == f"Bearer {CANARY}"
    assert sent.headers["Accept"] == "application/json"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
def test_errors_of_arize_pass_as_they_came(status: int, script: Script, arize: responses.RequestsMock):
    body = json.dumps({"type": "x", "title": "T", "status": status, "error_code": "E", "request_id": "req_1"})
    wait = {"Retry-After": "42", "Set-Cookie": "a=b", "Connection": "close", "X-Other": "1", "WWW-Authenticate": "x"}
    arize.get(f"{ENDPOINT}/v2/tasks", body=body, status=status, content_type="application/problem+json", headers=wait)
    found = script.get("tasks")
    assert (found.status_code, found.content.decode()) == (status, body)
    assert (found["Content-Type"], found["Retry-After"]) == ("application/problem+json", "42")
    assert not {"Set-Cookie", "Connection", "X-Other", "WWW-Authenticate"} & set(found.headers)


def test_answers_carry_the_security_headers_and_are_never_stored(script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    for found in (script.get("tasks"), script.get("nowhere"), Script("").get("tasks"), Script("x").get("%00")):
        assert not missing_from(found)
        assert found["Cache-Control"] == "no-store"
        assert not found.cookies
        assert "Cookie" not in found.get("Vary", "")


@pytest.mark.parametrize("status", [101, 103, 304, 600, 999])
def test_status_that_ends_no_answer_becomes_a_502(status: int, script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", status=status, body=b"{}")
    assert problem_of(script.get("tasks"))[0] == 502


def test_redirect_of_arize_becomes_a_502(script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", status=302, headers={"Location": "https://evil.example/"})
    assert problem_of(script.get("tasks"))[0] == 502
    assert len(arize.calls) == 1


@pytest.mark.parametrize(
    ("body", "status"), [(ConnectionResetError("cut"), 504), (b"x" * 2_000_001, 502)], ids=["cut", "long"]
)
def test_no_usable_answer_is_a_problem(body: Any, status: int, script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", body=body)
    assert problem_of(script.get("tasks"))[0] == status


def test_nothing_of_the_request_but_its_path_and_query_passes(script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    script.get("tasks?limit=5", Cookie="a=b", X_Other="1", sdk_version="8.61.0", Accept="text/html", Range="bytes=0-1")
    sent = arize.calls[0].request
    assert set(sent.headers) == {"User-Agent", "Accept-Encoding", "Accept", "Connection", "Authorization"}
    assert sent.headers["User-Agent"].startswith("taskruns/")
    assert sent.url == f"{ENDPOINT}/v2/tasks?limit=5"


# --- What the mirror learns


def test_runs_that_pass_are_recorded(script: Script, task: Task, run: Run, arize: responses.RequestsMock):
    world = World().install(arize)
    world.task(task.arize_id)
    world.run(run.arize_id, task.arize_id, "COMPLETED")
    world.run("new", task.arize_id, "PENDING")
    assert script.get(f"tasks/{task.arize_id}/runs").status_code == 200
    run.refresh_from_db()
    assert run.status == "completed"
    assert Run.objects.get(arize_id="new").task == task


def test_a_run_that_passes_is_recorded(script: Script, run: Run, arize: responses.RequestsMock):
    arize.get(run_url(run), json=wire_run(run, "FAILED", failure_reason="why"))
    assert script.get(f"task-runs/{run.arize_id}").json()["status"] == "FAILED"
    run.refresh_from_db()
    assert (run.status, run.failure_reason) == ("failed", "why")


@pytest.mark.parametrize("age", [0, 60])
def test_an_unchanged_active_run_is_written_only_now_and_then(
    age: int, script: Script, run: Run, task: Task, arize: responses.RequestsMock
):
    """Each write holds up others. An ended run that has not changed needs none at all."""
    ended = make_run(task, status=Status.COMPLETED)
    for it, status in ((run, "RUNNING"), (ended, "COMPLETED")):
        arize.get(run_url(it), json=wire_run(it, status))
        script.get(f"task-runs/{it.arize_id}")
        it.refresh_from_db()
    before = timezone.now() - timezone.timedelta(seconds=age)
    Run.objects.update(observed_at=before)
    passing._seen._at.clear()
    script.get(f"task-runs/{run.arize_id}")
    script.get(f"task-runs/{ended.arize_id}")
    written = set(Run.objects.exclude(observed_at=before).values_list("pk", flat=True))
    assert written == ({run.pk} if age else set())


def test_an_unknown_run_and_its_task_are_recorded(
    script: Script, credential: Credential, arize: responses.RequestsMock
):
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", json={"id": "R9", "task_id": "T9", "status": "RUNNING"})
    script.get("task-runs/R9")
    found = Run.objects.get(arize_id="R9")
    assert (found.task.arize_id, found.task.credential) == ("T9", credential)


def test_tasks_that_pass_are_recorded(
    script: Script, task: Task, credential: Credential, arize: responses.RequestsMock
):
    world = World().install(arize)
    world.task(task.arize_id, name="Renamed")
    world.task("T2")
    script.get("tasks")
    task.refresh_from_db()
    assert (task.name, Task.objects.get(arize_id="T2").credential) == ("Renamed", credential)


def test_one_task_that_passes_is_recorded(script: Script, task: Task, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks/{task.arize_id}", json={"id": task.arize_id, "name": "Renamed"})
    script.get(f"tasks/{task.arize_id}")
    task.refresh_from_db()
    assert task.name == "Renamed"


def test_an_older_reading_changes_nothing(script: Script, run: Run, arize: responses.RequestsMock):
    """The mirror has read the run after this request began."""

    def answer(_request: Any) -> Any:
        Run.objects.filter(pk=run.pk).update(observed_at=timezone.now(), status="cancelled", rank=0)
        return 200, {}, json.dumps(wire_run(run, "RUNNING"))

    arize.add_callback(responses.GET, run_url(run), answer)
    assert b"RUNNING" in script.get(f"task-runs/{run.arize_id}").content
    run.refresh_from_db()
    assert run.status == "cancelled"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"id": 1}', b"\xff", b"[" * 100_000, b'{"task_runs": "x"}', b'{"id": "other"}']
)
def test_an_answer_that_cannot_be_recorded_still_passes(
    body: bytes, script: Script, run: Run, task: Task, arize: responses.RequestsMock
):
    for path in (f"task-runs/{run.arize_id}", "tasks", f"tasks/{task.arize_id}", f"tasks/{task.arize_id}/runs"):
        arize.get(f"{ENDPOINT}/v2/{path}", body=body)
        found = script.get(path)
        assert (found.status_code, found.content) == (200, body)
    run.refresh_from_db()
    assert run.status == "running"


def test_the_mirror_of_another_team_is_not_touched(
    script: Script, run: Run, other_team: Any, arize: responses.RequestsMock
):
    """Both teams see the same run in Arize."""
    theirs = make_credential(other_team)
    their_task = Task.objects.create(
        team=other_team, endpoint=ENDPOINT, arize_id=run.task.arize_id, credential=theirs, type="code_evaluation"
    )
    their_run = make_run(their_task, arize_id=run.arize_id)
    arize.get(run_url(run), json=wire_run(run, "COMPLETED"))
    script.get(f"task-runs/{run.arize_id}")
    their_run.refresh_from_db()
    run.refresh_from_db()
    assert (run.status, their_run.status) == ("completed", "running")


# --- Which key


def test_several_keys_need_a_token_for_one(script: Script, credential: Credential, arize: responses.RequestsMock):
    other = make_credential(credential.team, name="Second", key="ak-second-1Xy7Qz4Mn8Lk2Jh5")
    assert problem_of(script.get("tasks")) == (409, "this token needs a credential")
    credential.team.tokens.update(credential=other)
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    assert script.get("tasks").status_code == 200
    assert arize.calls[0].request.headers["Authorization"] == "Bearer ak-second-1Xy7Qz4Mn8Lk2Jh5"


def test_a_revoked_key_is_not_used(script: Script, credential: Credential, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    assert script.get("tasks").status_code == 200
    Credential.objects.filter(pk=credential.pk).update(revoked_at=timezone.now(), ciphertext="")
    assert problem_of(script.get("tasks")) == (409, "this token needs a credential")


def test_a_replaced_key_is_used_at_once(script: Script, credential: Credential, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    script.get("tasks")
    credential.encrypt_secret("ak-replaced-1Xy7Qz4Mn8Lk2Jh5")
    credential.save()
    script.get("tasks")
    keys = [call.request.headers["Authorization"] for call in arize.calls]
    assert keys == [f"Bearer {CANARY}", "Bearer ak-replaced-1Xy7Qz4Mn8Lk2Jh5"]
    forget_kept(credential.pk)
