"""`POST tasks/{id}/trigger`: the table of answers, and which bodies are passed on."""

import json
from io import BytesIO
from typing import Any

import pytest
import responses

from taskruns.forms.trigger_body import LONGEST_BODY
from taskruns.models import AuditEvent, EmergencyStop, Run, Task, Team, Token, TokenRole, Trigger, User
from tests.database_refusals import refuse_inserts
from tests.factories import CANARY, make_credential, make_token
from tests.gateway.scripts import Script, problem_of
from tests.wire import ENDPOINT, trigger_url

NEW = {"id": "R1", "task_id": "x", "status": "PENDING", "brand_new": [1], "num_errors": 0}
WINDOW = {"data_start_time": "2026-11-22T00:00:00Z", "data_end_time": "2026-11-23T00:00:00Z"}


def outcomes() -> list[str]:
    return list(AuditEvent.objects.filter(event="run.trigger").order_by("pk").values_list("outcome", flat=True))


@pytest.mark.parametrize("status", ["PENDING", "pending"])
@pytest.mark.parametrize("body", ["", {}, WINDOW, {"max_spans": 5, "override_evaluations": True, "experiment_ids": []}])
def test_started_run_answers_with_arizes_own_body(
    body: Any, status: str, script: Script, task: Task, token: tuple[Token, str], arize: responses.RequestsMock
):
    raw = NEW | {"status": status, "task_id": task.arize_id}
    arize.post(trigger_url(task), status=201, json=raw)
    found = script.trigger(task.arize_id, body)
    assert (found.status_code, found.json()) == (201, raw)
    sent = arize.calls[0].request
    assert json.loads(sent.body) == (body or {})
    assert sent.headers["Authorization"] == f"Bearer {CANARY}"
    assert outcomes() == ["requested", "done"]
    row = Trigger.objects.get()
    assert (row.token, row.person, row.run) == (token[0], None, Run.objects.get(arize_id="R1"))
    assert AuditEvent.objects.filter(actor_type="token", actor_label=token[0].label).count() == 2


def test_each_request_starts_a_run_of_its_own(script: Script, task: Task, arize: responses.RequestsMock):
    for number in (1, 2):
        arize.post(trigger_url(task), status=201, json=NEW | {"id": f"R{number}", "task_id": task.arize_id})
    assert [script.trigger(task.arize_id).json()["id"] for _ in range(2)] == ["R1", "R2"]


BAD = {
    "unknown surrogate": b'{"\\ud800\\u0000": 1}',
    "unknown member": {"max_spans": 1, "colour": "red"},
    "other kind of task": {"experiment_name": "x"},
    "no object": [1],
    "text": "max_spans",
    "broken": b'{"max_spans": 1',
    "form": b"max_spans=1",
    "not UTF-8": b'{"experiment_ids": ["\xff"]}',
    "NaN": b'{"max_spans": NaN}',
    "twice": b'{"max_spans": 1, "max_spans": 2}',
    "deep": b'{"max_spans": ' + b"[" * 50_000,
    "no number": {"max_spans": "5"},
    "flag as number": {"max_spans": True},
    "too small": {"max_spans": 0},
    "too large": {"max_spans": 2**31},
    "no flag": {"override_evaluations": 1},
    "no time": {"data_start_time": "soon"},
    "old time": {"data_start_time": "1999-01-01T00:00:00Z"},
    "backwards": {"data_start_time": WINDOW["data_end_time"], "data_end_time": WINDOW["data_start_time"]},
    "too long": {"data_start_time": "2026-01-01T00:00:00Z", "data_end_time": "2026-03-01T00:00:00Z"},
    "no ids": {"experiment_ids": "E1"},
    "id with a blank": {"experiment_ids": ["a b"]},
    "id with a line break": {"experiment_ids": ["a\nb"]},
    "too many ids": {"experiment_ids": ["E"] * 101},
    "large": b" " * (LONGEST_BODY + 1),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_bad_body_is_a_400_and_nothing_is_sent(body: Any, script: Script, task: Task, arize: responses.RequestsMock):
    raw = json.dumps(body) if body == "max_spans" else body
    status, detail = problem_of(script.trigger(task.arize_id, raw))
    assert (status, detail.endswith("Nothing was sent.")) == (400, True)
    assert not arize.calls
    assert not Trigger.objects.exists()


EXPERIMENT: dict[str, Any] = {
    "experiment_name": "Nightly",
    "dataset_version_id": "D1",
    "max_examples": 3,
    "query_filter": "a = 'b'",
    "tracing_metadata": {"by": "airflow"},
    "evaluation_task_ids": ["T1"],
    "example_ids": None,
}


def test_body_of_an_experiment_passes(script: Script, task: Task, arize: responses.RequestsMock):
    Task.objects.update(type="run_experiment")
    arize.post(trigger_url(task), status=201, json=NEW)
    assert script.trigger(task.arize_id, EXPERIMENT).status_code == 201
    assert json.loads(arize.calls[0].request.body) == EXPERIMENT


@pytest.mark.parametrize(
    "change",
    [
        {"max_spans": 5},
        {"experiment_name": 'a"b'},
        {"experiment_name": "a\\b"},
        {"experiment_name": ""},
        {"experiment_name": "x" * 256},
        {"example_ids": ["E1"]},
        {"tracing_metadata": {"a": 1}},
        {"tracing_metadata": {"": "x"}},
        {"query_filter": "x" * 513},
    ],
)
def test_bad_body_of_an_experiment_is_a_400(change: Any, script: Script, task: Task, arize: responses.RequestsMock):
    Task.objects.update(type="run_experiment")
    assert problem_of(script.trigger(task.arize_id, EXPERIMENT | change))[0] == 400
    assert not arize.calls


def test_body_of_an_unknown_type_of_task_is_for_arize_to_judge(
    script: Script, task: Task, arize: responses.RequestsMock
):
    Task.objects.update(type="unknown")
    arize.post(trigger_url(task), status=201, json=NEW)
    assert script.trigger(task.arize_id, EXPERIMENT).status_code == 201
    assert problem_of(script.trigger(task.arize_id, {"colour": "red"}))[0] == 400


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_refusal_keeps_arizes_status_and_problem(
    status: int, script: Script, task: Task, arize: responses.RequestsMock
):
    arize.post(trigger_url(task), status=status, json={"title": "Own", "detail": f"detail {CANARY}"})
    assert problem_of(script.trigger(task.arize_id)) == (status, "detail [key]")
    assert outcomes() == ["requested", "refused"]


def test_429_of_arize_keeps_its_wait(script: Script, task: Task, arize: responses.RequestsMock):
    arize.post(trigger_url(task), status=429, headers={"Retry-After": "9"})
    found = script.trigger(task.arize_id)
    assert (problem_of(found)[0], found["Retry-After"]) == (429, "9")


def test_429_without_a_wait_gets_the_usual_one(script: Script, task: Task, arize: responses.RequestsMock):
    arize.post(trigger_url(task), status=429)
    assert script.trigger(task.arize_id)["Retry-After"] == "30"


def test_body_without_a_length_starts_nothing(script: Script, task: Task, arize: responses.RequestsMock):
    """Django would read it as empty."""
    found = script.trigger(task.arize_id, "", Transfer_Encoding="chunked")
    assert problem_of(found) == (400, "Send the body with a Content-Length. Nothing was sent.")
    assert not arize.calls


@pytest.mark.parametrize("arrived", [b"", b"{}"])
def test_body_that_was_cut_off_starts_nothing(
    arrived: bytes, script: Script, task: Task, arize: responses.RequestsMock
):
    arize.post(trigger_url(task), status=201, json=NEW)
    # As gunicorn passes it on: the test client itself refuses to read more than it has.
    sent = {"wsgi.input": BytesIO(arrived), "CONTENT_LENGTH": "50", "HTTP_AUTHORIZATION": f"Bearer {script.secret}"}
    status, detail = problem_of(script.client.post(f"/v2/tasks/{task.arize_id}/trigger", **sent))
    assert (status, "shorter" in detail) == (400, True)
    assert not arize.calls
    assert not Trigger.objects.exists()


def test_held_task_is_a_409(script: Script, task: Task, team: Team, oli: User, arize: responses.RequestsMock):
    EmergencyStop.objects.create(team=team, person=oli, person_label=oli.email, reason="why")
    assert problem_of(script.trigger(task.arize_id))[0] == 409
    assert not arize.calls


def test_unsent_start_is_a_502(script: Script, task: Task, arize: responses.RequestsMock, settings: Any):
    settings.ARIZE_ENDPOINTS = ()
    assert problem_of(script.trigger(task.arize_id))[0] == 502
    assert outcomes() == ["requested", "not_sent"]


def test_lost_answer_is_a_504(script: Script, task: Task, arize: responses.RequestsMock):
    arize.post(trigger_url(task), body=ConnectionResetError("cut"))
    arize.get(f"{ENDPOINT}/v2/tasks/{task.arize_id}/runs", json={"task_runs": []})
    assert problem_of(script.trigger(task.arize_id))[0] == 504
    assert outcomes() == ["requested", "unknown"]


def test_unwritable_audit_row_is_a_503_and_nothing_is_sent(script: Script, task: Task, arize: responses.RequestsMock):
    refuse_inserts("taskruns_auditevent")
    assert problem_of(script.trigger(task.arize_id))[0] == 503
    assert not arize.calls


def test_viewers_token_gets_a_403(team: Team, task: Task, arize: responses.RequestsMock):
    _, secret = make_token(team, role=TokenRole.VIEWER)
    assert problem_of(Script(secret).trigger(task.arize_id))[0] == 403
    assert outcomes() == ["denied"]


def test_unknown_task_is_read_first(script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks/T9", json={"id": "T9", "type": "CODE_EVALUATION"})
    arize.post(f"{ENDPOINT}/v2/tasks/T9/trigger", status=201, json=NEW | {"task_id": "T9"})
    assert script.trigger("T9").status_code == 201
    arize.get(f"{ENDPOINT}/v2/tasks/T8", status=404, body=b"own body")
    found = script.trigger("T8")
    assert (found.status_code, found.content) == (404, b"own body")


def test_task_of_another_key_must_be_visible_to_the_tokens_own(
    script: Script, task: Task, team: Team, arize: responses.RequestsMock
):
    Token.objects.update(credential=make_credential(team, name="Second", key="ak-second-1Xy7Qz4Mn8Lk2Jh5"))
    arize.get(f"{ENDPOINT}/v2/tasks/{task.arize_id}", status=404)
    assert script.trigger(task.arize_id).status_code == 404
    assert not Trigger.objects.exists()
