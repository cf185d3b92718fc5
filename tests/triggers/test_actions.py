"""Each outcome of a start: Arize's answer, the outcome, and the message to the person."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns.models import AuditEvent, Credential, Run, Status, Task, Team, Trigger, User
from taskruns.services import credentials, triggers
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import actor, make_run
from tests.stored import events
from tests.triggers.starting import BODY, NEW, problem, send
from tests.wire import ENDPOINT, trigger_url

SENT = {
    "data_start_time": "2026-11-22T03:00:00.000Z",
    "data_end_time": "2026-11-23T03:00:00.000Z",
    "max_spans": 10_000,
    "override_evaluations": False,
}
RUNS = f"{ENDPOINT}/v2/tasks/T25saW5lVGFzazo0NTpxUndY/runs"


def rows() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(event="run.trigger").order_by("seq"))


def check_log(task: Task, person: User, outcome: str) -> AuditEvent:
    """Check the two rows of the operation. Returns the second."""
    requested, ended = rows()
    assert (requested.outcome, ended.outcome) == ("requested", outcome)
    assert requested.operation_id == ended.operation_id == Trigger.objects.get().pk
    for row in (requested, ended):
        assert (row.actor_label, row.actor_role, row.team_id) == (person.email, "operator", task.team_id)
        assert (row.task_id, row.endpoint, row.credential_id) == (task.arize_id, task.endpoint, task.credential_id)
        assert row.target_label == str(task)
        assert BODY not in json.dumps(row.details)
    assert requested.details == SENT
    assert (requested.target_type, requested.target_id) == ("task", str(task.pk))
    return ended


def test_a_started_run_is_on_the_board_at_once(
    client: Client, task: Task, oli: User, arize: responses.RequestsMock
) -> None:
    version = Team.objects.get().board_version
    post = arize.post(trigger_url(task), json=NEW | {"created_at": "2026-11-23T03:00:01Z"}, status=201)
    answer = send(client, task)
    run = Run.objects.get(arize_id="new-run")
    assert (answer.status_code, answer.url) == (302, f"/teams/ops-north/runs/{run.pk}/")
    assert (run.status, run.rank, run.task_id) == (Status.PENDING, 1, task.pk)
    assert post.call_count == len(arize.calls) == 1
    assert json.loads(arize.calls[0].request.body or "") == SENT
    assert Team.objects.get().board_version > version
    assert 'data-run-id="new-run"' in client.get("/teams/ops-north/runs/table/").content.decode()
    page = client.get(answer.url).content.decode()
    assert "Answer relevance evaluation: Arize started the run." in page
    assert "oli@example.com started run new-run of task Answer relevance evaluation" in page
    ended = check_log(task, oli, "done")
    assert (ended.target_type, ended.target_id, ended.run_id) == ("run", str(run.pk), "new-run")
    assert ended.details["http_status"] == 201
    assert ended.details["milliseconds"] >= 0
    row = Trigger.objects.get()
    assert (row.outcome, row.run_id, row.person, row.parameters) == ("done", run.pk, oli, SENT)


def test_a_run_that_arize_says_ended_long_ago_is_kept_too(
    client: Client, task: Task, oli: User, arize: responses.RequestsMock, settings: Any
) -> None:
    """The server's clock is wrong, but the run was started: the log and the board must show it."""
    settings.RUN_RETENTION_DAYS = 1
    past = {"status": "COMPLETED", "created_at": "2020-01-01T00:00:00Z", "run_finished_at": "2020-01-01T00:00:00Z"}
    arize.post(trigger_url(task), json=NEW | past, status=201)
    answer = send(client, task)
    assert (answer.status_code, answer.url) == (302, f"/teams/ops-north/runs/{Run.objects.get().pk}/")
    check_log(task, oli, "done")


REFUSALS: list[tuple[dict[str, Any], int, str]] = [
    (problem(400), 409, "Arize rejected the request as invalid (400)."),
    (problem(401), 409, "Arize rejected this API key (401)"),
    (problem(403), 409, "Arize refused this request (403)."),
    (problem(404), 409, "Arize no longer has this task, or this API key may not see it (404)."),
    (problem(409), 409, "already has an experiment with this name"),
    (problem(422), 409, "Arize cannot carry out this request (422)"),
    (problem(429, **{"Retry-After": "42"}), 429, "Try again in 42 seconds."),
    (problem(429), 429, "Wait a little, then try again."),
    (problem(302, Location="https://evil.example/"), 409, "unexpected answer (302)"),
    (problem(418), 409, "unexpected answer (418)"),
]


@pytest.mark.parametrize(("answer", "http", "words"), REFUSALS, ids=[str(a["status"]) for a, _, _ in REFUSALS])
def test_a_refusal_says_why_and_keeps_what_was_typed(
    answer: dict[str, Any],
    http: int,
    words: str,
    client: Client,
    task: Task,
    oli: User,
    arize: responses.RequestsMock,
) -> None:
    post = arize.post(trigger_url(task), **answer)
    page = send(client, task)
    text = page.content.decode()
    assert page.status_code == http
    assert "Arize refused to start a run." in text
    assert words in text
    assert f"Arize says: Refused: {BODY}" in text
    assert 'value="2026-11-22T03:00"' in text
    assert str(Trigger.objects.get().pk) not in text, "the form comes back with a new token"
    assert post.call_count == len(arize.calls) == 1
    ended = check_log(task, oli, "refused")
    assert (ended.details["http_status"], ended.details["arize_request_id"]) == (answer["status"], "req_42")
    assert not Run.objects.exists()


def test_arizes_own_words_are_truncated_and_cleaned(client: Client, task: Task, arize: responses.RequestsMock) -> None:
    arize.post(trigger_url(task), status=400, json={"title": "Bad\r\n<b>", "detail": "x" * 5_000 + "\u202e"})
    text = send(client, task).content.decode()
    assert "Arize says: Bad &lt;b&gt;: xxx" in text
    assert len(Trigger.objects.get().explanation) < 450


LOST: dict[str, dict[str, Any]] = {
    "read time-out": {"body": requests.ReadTimeout()},
    "cut": {"body": requests.ConnectionError("Connection aborted.")},
    "500": problem(500),
    "502 HTML": {"status": 502, "body": "<html>", "content_type": "text/html"},
    "503": problem(503),
    "408": problem(408),
    "201 empty": {"status": 201, "body": ""},
    "201 HTML": {"status": 201, "body": "<html>"},
    "201 without an id": {"status": 201, "json": {"status": "PENDING"}},
    "201 with an endless id": {"status": 201, "json": NEW | {"id": "x" * 3_000}},
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", LOST.values(), ids=LOST)
def test_a_lost_answer_is_unknown_and_a_started_run_is_on_the_board(
    answer: dict[str, Any], client: Client, task: Task, oli: User, arize: responses.RequestsMock
) -> None:
    make_run(task, arize_id="old-run")
    now = timezone.now().isoformat()
    listed = [NEW | {"created_at": now}, NEW | {"id": "old-run", "created_at": now}, NEW | {"id": "before"}]
    listed[2]["created_at"] = "2026-01-01T00:00:00Z"
    post = arize.post(trigger_url(task), **answer)
    look = arize.get(RUNS, json={"task_runs": listed})
    page = send(client, task)
    text = page.content.decode()
    assert page.status_code == 502
    assert "it is unknown whether a run began" in text
    assert "One new run of the task has appeared since. It may be yours." in text
    assert (post.call_count, look.call_count) == (1, 1)
    assert 'data-run-id="new-run"' in client.get("/teams/ops-north/runs/table/").content.decode()
    ended = check_log(task, oli, "unknown")
    assert (ended.run_id, ended.details["new_runs"]) == ("", ["new-run"])
    row = Trigger.objects.get()
    assert (row.outcome, row.run_id) == ("unknown", None)


@pytest.mark.parametrize("owner", ["the same task", "another task"])
def test_an_answer_with_a_run_that_existed_before_is_unknown(
    owner: str, client: Client, task: Task, oli: User, arize: responses.RequestsMock
) -> None:
    other = Task.objects.create(team=task.team, endpoint=task.endpoint, arize_id="another")
    of = other if owner == "another task" else task
    old = make_run(of, arize_id=NEW["id"], first_seen_at=timezone.now() - timedelta(minutes=5))
    arize.post(trigger_url(task), json=NEW, status=201)
    text = send(client, task).content.decode()
    assert "it is unknown whether a run began" in text
    assert "Arize answered with a run that existed before." in text
    ended = check_log(task, oli, "unknown")
    assert ended.run_id == ""
    before = (old.status, old.observed_at)
    old.refresh_from_db()
    assert (old.status, old.observed_at) == before


@pytest.mark.parametrize(
    ("look", "words"),
    [
        ({"json": {"task_runs": []}}, "has no new run so far, but one may still appear"),
        ({"json": {"task_runs": [NEW, NEW | {"id": "r2"}]}}, "2 new runs of the task have appeared since. One of them"),
        ({"status": 503}, "could not be read either"),
        ({"body": requests.ReadTimeout()}, "could not be read either"),
        ({"status": 404}, "could not be read either"),
        ({"body": "<html>"}, "could not be read either"),
    ],
)
def test_the_message_says_what_the_newest_runs_show(
    look: dict[str, Any], words: str, client: Client, task: Task, oli: User, arize: responses.RequestsMock
) -> None:
    arize.post(trigger_url(task), status=504)
    read = arize.get(RUNS, **look)
    page = send(client, task)
    assert page.status_code == 502
    assert words in page.content.decode()
    assert read.call_count == 1, "a person is waiting: one read, no retries"
    check_log(task, oli, "unknown")


@pytest.mark.parametrize("raised", [requests.ConnectTimeout(), requests.exceptions.SSLError()])
def test_an_unsendable_request_is_not_sent(
    raised: Exception, client: Client, task: Task, oli: User, arize: responses.RequestsMock
) -> None:
    arize.post(trigger_url(task), body=raised)
    page = send(client, task)
    assert page.status_code == 502
    assert "No run was started." in page.content.decode()
    assert check_log(task, oli, "not_sent").details["http_status"] is None
    assert len(arize.calls) == 1


def test_a_closed_port_received_nothing(client: Client, task: Task, settings: Any, free_port: int) -> None:
    endpoint = f"http://127.0.0.1:{free_port}"
    settings.ARIZE_ENDPOINTS = (endpoint,)
    Credential.objects.update(endpoint=endpoint)
    assert send(client, task).status_code == 502
    assert events() == [("run.trigger", "requested"), ("run.trigger", "not_sent")]


def _no_key(task: Task, settings: Any) -> None:
    Task.objects.update(credential=None)


def _revoke(task: Task, settings: Any) -> None:
    credentials.revoke(task.credential, by=actor(User.objects.get()))


def _damage(task: Task, settings: Any) -> None:
    Credential.objects.update(ciphertext="no-token")


def _forbid(task: Task, settings: Any) -> None:
    settings.ARIZE_ENDPOINTS = ()


def _odd_id(task: Task, settings: Any) -> None:
    Task.objects.update(arize_id="..")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_key, "No API key of this team can read this task"),
        (_revoke, "No API key of this team can read this task"),
        (_damage, "cannot be decrypted"),
        (_forbid, "This address is not allowed."),
        (_odd_id, "Nothing was sent."),
    ],
)
def test_the_message_says_why_nothing_could_be_sent(
    spoil: Any, words: str, settings: Any, client: Client, task: Task, arize: responses.RequestsMock
) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    spoil(task, settings)
    page = send(client, task)
    assert page.status_code == 502
    assert words in page.content.decode().replace("&#x27;", "'")
    assert events(event="run.trigger") == [("run.trigger", "requested"), ("run.trigger", "not_sent")]
    assert not arize.calls


@pytest.mark.parametrize("state", [{"failing_since": "2026-11-23T00:00Z"}, {"backoff_until": "2999-01-01T00:00Z"}])
def test_a_run_is_started_despite_a_failing_key_or_a_backoff(
    state: dict[str, str], client: Client, task: Task, arize: responses.RequestsMock
) -> None:
    Credential.objects.update(**state)
    arize.post(trigger_url(task), json=NEW, status=201)
    assert send(client, task).status_code == 302
    assert len(arize.calls) == 1


@pytest.mark.parametrize("table", ["taskruns_auditevent", "taskruns_trigger"])
def test_nothing_is_sent_if_the_request_cannot_be_written(
    table: str, client: Client, task: Task, arize: responses.RequestsMock
) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    refuse_inserts(table)
    operation = str(uuid.uuid4())
    page = send(client, task, operation=operation)
    assert page.status_code == 503
    assert "nothing was sent to Arize" in page.content.decode()
    assert not arize.calls
    assert not Trigger.objects.exists()
    accept_inserts(table)
    assert send(client, task, operation=operation).status_code == 302, "the same form works once the row can be written"


def test_an_unwritable_answer_is_reported_and_closed_by_the_sweep(
    client: Client, task: Task, arize: responses.RequestsMock
) -> None:
    arize.post(trigger_url(task), json=NEW, status=201)
    refuse_inserts("taskruns_auditevent", unless="NEW.outcome <> 'done'")
    operation = str(uuid.uuid4())
    page = send(client, task, operation=operation)
    assert page.status_code == 503
    assert "The start was sent to Arize, but its answer could not be recorded." in page.content.decode()
    assert not Run.objects.exists()
    accept_inserts("taskruns_auditevent")
    again = send(client, task, operation=operation)
    assert (again.status_code, len(arize.calls)) == (409, 1)
    with time_machine.travel(timezone.now() + timezone.timedelta(seconds=61)):
        assert triggers.sweep() == 1
    assert events() == [("run.trigger", "requested"), ("run.trigger", "unknown")]
