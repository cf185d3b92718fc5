"""One form starts one run, despite a double click, a reload, the back button, a crash or twenty POSTs at once."""

import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.arize.client import ArizeClient
from taskruns.arize.triggers import EvaluationTrigger
from taskruns.models import (
    AuditEvent,
    Credential,
    Membership,
    Run,
    Task,
    Team,
    TeamRole,
    Trigger,
    TriggerOutcome,
    User,
)
from taskruns.services import triggers
from taskruns.services.triggers.answer import Answer
from taskruns.services.triggers.results import close
from tests.arize_server import ArizeServer, serving
from tests.clients import ClientOf
from tests.factories import CANARY, actor, person
from tests.queue_worker import work
from tests.stored import events
from tests.threads import in_threads
from tests.triggers.starting import NEW, problem, send, url
from tests.wire import trigger_url

pytestmark = pytest.mark.usefixtures("empty_queue")

FORM = "5f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0002"


@pytest.fixture
def post(task: Task, arize: responses.RequestsMock) -> responses.BaseResponse:
    return arize.post(trigger_url(task), json=NEW, status=201)


def sent(task: Task, person: User, **fields: Any) -> Trigger:
    """A form that this person has just sent."""
    row = {"task": task, "person": person, "person_label": person.email, "parameters": EvaluationTrigger().as_json()}
    return Trigger.objects.create(pk=FORM, **row | fields)


def test_the_same_form_sent_again_leads_to_the_run_that_it_started(client: Client, task: Task, post: Any) -> None:
    answers = [send(client, task, operation=FORM) for _ in range(3)]
    assert {(answer.status_code, answer.url) for answer in answers} == {(302, answers[0].url)}
    assert "so no second run was started" in client.get(answers[2].url).content.decode()
    assert post.call_count == 1
    assert events() == [("run.trigger", "requested"), ("run.trigger", "done")]
    assert Run.objects.count() == 1


def test_two_forms_start_two_runs(client: Client, task: Task, arize: responses.RequestsMock) -> None:
    for number in (1, 2):
        arize.post(trigger_url(task), json=NEW | {"id": f"r{number}"}, status=201)
    pages = [client.get(url(task)).content.decode() for _ in range(2)]
    tokens = [page.split('name="operation" value="')[1].split('"')[0] for page in pages]
    assert tokens[0] != tokens[1]
    assert [send(client, task, operation=token).status_code for token in tokens] == [302, 302]
    assert Run.objects.count() == 2


def test_a_second_post_of_a_form_waits_for_the_first(client: Client, task: Task, oli: User, post: Any) -> None:
    send(client, task, operation=FORM)
    Trigger.objects.update(outcome="", run=None)
    page = send(client, task, operation=FORM)
    text = page.content.decode()
    where = f"{url(task)}?operation={FORM}"
    assert page.status_code == 409
    assert "Arize has not answered yet" in text
    assert f'href="{where}"' in text
    assert "Start the run" not in text
    assert post.call_count == 1
    htmx = {"HX-Request": "true"}
    assert client.get(where, headers=htmx).status_code == 204
    assert client.get(where).status_code == 200
    run = Run.objects.get()
    Trigger.objects.update(outcome="done", run=run)
    moved = client.get(where, headers=htmx)
    assert (moved.status_code, moved["HX-Redirect"]) == (200, where)
    assert client.get(where).url == f"/teams/ops-north/runs/{run.pk}/"
    Trigger.objects.update(run=None)
    assert client.get(where).url == "/teams/ops-north/runs/"


@pytest.mark.parametrize(("answer", "status"), [(problem(403), 409), (problem(429), 429), ({"status": 500}, 502)])
def test_reloading_a_failure_says_the_same_and_sends_nothing(
    answer: dict[str, Any], status: int, client: Client, task: Task, arize: responses.RequestsMock
) -> None:
    post = arize.post(trigger_url(task), **answer)
    first, again = (send(client, task, operation=FORM, max_spans="77") for _ in range(2))
    explanation = Trigger.objects.get().explanation
    assert (first.status_code, again.status_code, post.call_count) == (status, status, 1)
    for page in (first, again, client.get(f"{url(task)}?operation={FORM}")):
        text = page.content.decode().replace("&#x27;", "'")
        assert explanation in text
        assert 'value="77"' in text
        assert FORM not in text
    assert len(events()) == 2


def test_a_used_form_with_other_values_is_shown_again_and_not_sent(client: Client, task: Task, post: Any) -> None:
    send(client, task, operation=FORM)
    page = send(client, task, operation=FORM, max_spans="77")
    text = page.content.decode()
    assert (page.status_code, post.call_count) == (409, 1)
    assert "already sent with other values" in text
    assert 'value="77"' in text
    assert FORM not in text
    new_operation = text.split('name="operation" value="')[1].split('"')[0]
    assert send(client, task, operation=new_operation, max_spans="77").status_code == 302
    assert post.call_count == 2


@pytest.mark.parametrize("whose", ["another person's", "another task's", "another team's"])
def test_the_token_of_another_persons_form_reveals_nothing(
    whose: str, client: Client, task: Task, oli: User, mona: User, other_team: Team, post: Any
) -> None:
    row = {"another task's": {"arize_id": "T2"}, "another team's": {"team": other_team, "arize_id": "T3"}}.get(whose)
    elsewhere = Task.objects.create(**{"team": task.team, "endpoint": task.endpoint} | row) if row else task
    owner = mona if elsewhere == task else oli
    sent(elsewhere, owner, outcome="refused", explanation="a secret of theirs")
    page = send(client, task, operation=FORM)
    assert page.status_code == 409
    look = client.get(f"{url(task)}?operation={FORM}")
    assert "Start the run" in look.content.decode()
    assert "a secret of theirs" not in (page.content + look.content).decode()
    assert post.call_count == 0
    assert events() == []


@pytest.mark.parametrize("token", ["", "nonsense", "\0", FORM.replace("a", "")])
def test_a_get_with_an_unused_token_shows_a_new_form(token: str, client: Client, task: Task) -> None:
    page = client.get(url(task), {"operation": token})
    assert page.status_code == 200
    assert "Start the run" in page.content.decode()


# --- The sweep


def test_the_sweep_closes_an_interrupted_start_as_unknown(
    client: Client, task: Task, oli: User, monkeypatch: pytest.MonkeyPatch, arize: responses.RequestsMock
) -> None:
    monkeypatch.setattr(ArizeClient, "trigger_run", _crash)
    with pytest.raises(KeyboardInterrupt):
        send(client, task, operation=FORM)
    start = timezone.now()
    assert events() == [("run.trigger", "requested")]
    with time_machine.travel(start, tick=False) as clock:
        for seconds, closed in ((1, 0), (59, 0), (61, 1), (200, 0)):
            clock.move_to(start + timedelta(seconds=seconds))
            assert triggers.sweep() == closed, seconds
    ended = AuditEvent.objects.latest("pk")
    assert (ended.event, ended.outcome, ended.actor_type, ended.actor_label) == (
        *("run.trigger", "unknown"),
        *("job", "sweep"),
    )
    assert (str(ended.operation_id), ended.task_id, ended.team_id) == (FORM, task.arize_id, task.team_id)
    assert not arize.calls
    page = client.get(f"{url(task)}?operation={FORM}").content.decode()
    assert "it is unknown whether a run began" in page
    assert "interrupted before it could record" in page


def _crash(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_worker_also_sweeps_starts(task: Task, oli: User) -> None:
    sent(task, oli, posted_at=timezone.now() - timedelta(minutes=5))
    jobs.sweep()
    work()
    assert events() == [("run.trigger", "unknown")]


def test_only_a_known_outcome_is_written_after_the_sweep(task: Task, oli: User) -> None:
    row = sent(task, oli, posted_at=timezone.now() - timedelta(minutes=5))
    assert triggers.sweep() == 1
    refused = Answer(TriggerOutcome.REFUSED, "No.")
    lost = Answer(TriggerOutcome.UNKNOWN, "Again.")
    by = actor(oli)
    assert not close(row, lost, by=by)
    assert close(row, refused, by=by)
    assert not close(row, refused, by=by)
    assert not close(row, lost, by=by)
    assert [outcome for _, outcome in events()] == ["unknown", "refused"]
    assert Trigger.objects.get().explanation == "No."


# --- Concurrency


@pytest.mark.commits
@pytest.mark.usefixtures("committed")
def test_twenty_posts_of_one_form_are_one_post_to_arize(client_of: ClientOf, settings: Any) -> None:
    def answer(method: str, path: str) -> tuple[int, Any]:
        return 201, NEW

    def a_request_is_written(path: str) -> None:
        assert AuditEvent.objects.get(outcome="requested").operation_id == Trigger.objects.get().pk

    with serving(ArizeServer(answer, a_request_is_written)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        team = Team.objects.create(slug="ops-north", name="Ops North")
        credential = Credential(team=team, name="Production", endpoint=double.url)
        credential.encrypt_secret(CANARY)
        credential.save()
        task = Task.objects.create(
            team=team, endpoint=double.url, arize_id="T1", credential=credential, type="template_evaluation"
        )
        someone = person("operator@example.com")
        Membership.objects.create(team=team, user=someone, role=TeamRole.OPERATOR)
        clients = [client_of(someone) for _ in range(20)]
        form = str(uuid.uuid4())
        statuses = in_threads(20, lambda number: send(clients[number], task, operation=form).status_code)
    assert double.posts() == ["POST /v2/tasks/T1/trigger"]
    assert not double.faults
    assert set(statuses) <= {302, 409}
    assert Counter(AuditEvent.objects.values_list("outcome", flat=True)) == {"requested": 1, "done": 1}
    assert Run.objects.count() == Trigger.objects.count() == 1
