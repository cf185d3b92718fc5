"""Key tests by a person, the sweep that ends them, and the mark that the mirror sets when Arize rejects a key."""

from datetime import date, timedelta
from io import StringIO

import pytest
import requests
import responses
import time_machine
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from responses import matchers

from taskruns import jobs
from taskruns.audit import Actor
from taskruns.models import AuditEvent, Credential, Team
from taskruns.pages.audit.sentences import sentence
from taskruns.pages.credentials import result_message
from taskruns.services import credentials
from taskruns.services.credentials import key_tests
from taskruns.services.credentials.sweep import LONGEST_TEST
from tests.factories import CANARY, actor, make_credential
from tests.stored import events
from tests.wire import ENDPOINT

SHELL = Actor(type="command", label="tests")
FAILED = [("credential.test", "requested"), ("credential.test", "failed")]
OTHER_KEY = "ak-other-9WmQ2sVb7TzX4cNd1Fg"


def add(team, **change):
    wanted = {"name": "Europe", "endpoint": ENDPOINT, "key": CANARY, "expires_on": None, "by": SHELL} | change
    return credentials.add(team, **wanted)


def add_lists(arize, *, spaces=2, tasks=40, more=False):
    pagination = {"has_more": more, "next_cursor": "c2"} if more else {"has_more": False}
    named = [{"id": f"s{i}", "name": f"Space {i}"} for i in range(spaces)]
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": named, "pagination": {"has_more": False}})
    listed = [{"id": f"t{i}"} for i in range(tasks)]
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": listed, "pagination": pagination})


def message_of(credential, result):
    """The page's message about a test."""
    return result_message(credential, result).text


def rejects(arize, status=401, **body):
    arize.get(f"{ENDPOINT}/v2/spaces", status=status, json={"status": status, "title": "No"} | body)


# --- Testing


@pytest.mark.commits
def test_arize_is_called_only_after_the_request_is_committed(committed, arize):
    credential = make_credential(Team.objects.create(slug="ops", name="Ops"))
    held = []

    def answer(_):
        held.append((connection.in_atomic_block, events()))
        return 401, {}, "{}"

    arize.add_callback(responses.GET, f"{ENDPOINT}/v2/spaces", answer)
    assert not credentials.test(credential, by=SHELL).ok
    assert held == [(False, [("credential.test", "requested")])]


def test_a_test_shows_what_the_key_sees(arize, credential, mona):
    Credential.objects.update(
        failing_since=timezone.now(), failing_reason="x", backoff_until=timezone.now(), failures=2
    )
    credential.refresh_from_db()
    add_lists(arize)
    result = credentials.test(credential, by=actor(mona))
    assert result.ok
    assert "2 spaces (Space 0, Space 1) and 40 tasks" in message_of(credential, result)
    assert "cannot tell in advance whether a key may cancel" in message_of(credential, result)
    credential.refresh_from_db()
    assert (credential.failing_since, credential.backoff_until, credential.failures) == (None, None, 0)
    assert credential.last_good_at is not None
    assert credential.next_refresh_at <= timezone.now()
    requested, row = AuditEvent.objects.order_by("pk")
    assert events() == [("credential.test", "requested"), ("credential.test", "ok")]
    assert requested.operation_id == row.operation_id is not None
    assert requested.details == {}
    assert row.details | {"milliseconds": 0} == {
        "http_status": 200,
        "arize_request_id": None,
        "milliseconds": 0,
        "spaces": 2,
        "tasks": 40,
    }
    assert {call.request.headers["Authorization"] for call in arize.calls} == {f"Bearer {CANARY}"}


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_key_for_single_spaces_passes_the_test(arize, credential, mona, status):
    query = matchers.query_param_matcher
    spaces = [{"id": "s1", "name": "Prod"}, {"id": "s2", "name": "Locked"}]
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": spaces})
    arize.get(f"{ENDPOINT}/v2/tasks", status=status, match=[query({"limit": "100"})])
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": [{"id": "t"}]}, match=[query({"space_id": "s1", "limit": "100"})])
    arize.get(f"{ENDPOINT}/v2/tasks", status=403, match=[query({"space_id": "s2", "limit": "100"})])
    result = credentials.test(credential, by=actor(mona))
    assert result.ok
    assert "2 spaces (Prod, Locked) and 1 task." in message_of(credential, result)
    assert events() == [("credential.test", "requested"), ("credential.test", "ok")]


@pytest.mark.parametrize("status", [403, 404])
def test_a_key_that_may_not_list_tasks_fails_the_test(arize, credential, mona, status):
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": [{"id": "s1", "name": "Prod"}]})
    arize.get(f"{ENDPOINT}/v2/tasks", status=status)
    result = credentials.test(credential, by=actor(mona))
    assert not result.ok
    assert f"({status})" in message_of(credential, result)


@pytest.mark.parametrize(
    ("spaces", "tasks", "more", "words"),
    [
        (1, 1, False, "1 space (Space 0) and 1 task."),
        (1, 100, True, "and 100 or more tasks."),
        (7, 0, False, "7 spaces (Space 0, Space 1, Space 2, Space 3, Space 4, …) and 0 tasks."),
        (0, 0, False, "no space and no task"),
    ],
)
def test_the_message_of_a_test_says_what_the_key_sees(arize, credential, spaces, tasks, more, words):
    add_lists(arize, spaces=spaces, tasks=tasks, more=more)
    result = credentials.test(credential, by=SHELL)
    assert words in message_of(credential, result)
    assert result.seen.is_empty is (spaces == tasks == 0)
    assert result_message(credential, result).tone == ("warning" if result.seen.is_empty else "success")


def test_a_rejected_key_is_marked_failing_once(arize, team, credential):
    rejects(arize, request_id="req_1")
    result = credentials.test(credential, by=SHELL)
    credentials.test(credential, by=SHELL)
    credential.refresh_from_db()
    team.refresh_from_db()
    assert (result.ok, result.is_rejected) == (False, True)
    assert "401" in message_of(credential, result)
    assert credential.failing_reason == result.problem
    first, second = AuditEvent.objects.filter(outcome="requested").values_list("operation_id", flat=True)
    assert events(operation_id=first) == events(operation_id=second) == FAILED
    assert events().count(("credential.failing", "done")) == 1
    assert len(events()) == 5
    last = AuditEvent.objects.latest("seq").details
    assert (last["http_status"], last["arize_request_id"]) == (401, "req_1")
    assert team.board_version == 1


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_other_answers_fail_the_test_but_not_the_key(arize, credential, status):
    rejects(arize, status)
    result = credentials.test(credential, by=SHELL)
    credential.refresh_from_db()
    assert (result.ok, credential.failing_since) == (False, None)
    assert events() == FAILED


def test_an_unreachable_host_is_explained(arize, credential):
    arize.get(f"{ENDPOINT}/v2/spaces", body=requests.ConnectionError("boom http://user:pw@host"))
    result = credentials.test(credential, by=SHELL)
    assert not result.ok
    assert "boom" not in message_of(credential, result)
    assert len(result.problem) > 20


def test_an_endpoint_that_is_no_longer_allowed_gets_no_request(arize, credential, settings):
    settings.ARIZE_ENDPOINTS = ()
    result = credentials.test(credential, by=SHELL)
    credential.refresh_from_db()
    assert (result.ok, len(arize.calls), credential.failing_since is None) == (False, 0, False)


def test_the_mirror_marks_a_key_once(team, credential):
    assert credentials.mark_failing(credential, sentence="Arize says no.", by=Actor.job("mirror"))
    assert not credentials.mark_failing(credential, sentence="Arize says no again.", by=Actor.job("mirror"))
    credential.refresh_from_db()
    row = AuditEvent.objects.get()
    assert credential.failing_reason == "Arize says no."
    assert (row.event, row.actor_type, row.actor_label) == ("credential.failing", "job", "mirror")


def test_a_rejection_of_the_old_key_does_not_mark_the_new_one(credential):
    read_before = Credential.objects.get()
    credentials.replace(credential, key=OTHER_KEY, expires_on=None, by=SHELL)
    assert not credentials.mark_failing(read_before, sentence="Arize says no.", by=Actor.job("mirror"))
    assert credentials.mark_failing(Credential.objects.get(), sentence="Arize says no.", by=Actor.job("mirror"))


def test_the_date_of_a_key_replaced_during_its_test_is_not_recorded(arize, credential, monkeypatch):
    def replaced_during_it(*_):
        credentials.replace(Credential.objects.get(), key=OTHER_KEY, expires_on=None, by=SHELL)
        return date(2031, 5, 6)

    add_lists(arize)
    monkeypatch.setattr(key_tests, "read_expiry", replaced_during_it)
    credentials.test(credential, by=SHELL)
    assert Credential.objects.get().expires_on is None
    assert "changed" not in AuditEvent.objects.get(event="credential.test", outcome="ok").details


def test_a_missing_list_of_spaces_does_not_fail_a_key(team, arize):
    credential = add(team)
    Credential.objects.update(failing_since=timezone.now(), failing_reason="once")
    arize.get(f"{ENDPOINT}/v2/spaces", status=404)
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": [{"id": "T1"}], "pagination": {"has_more": False}})
    result = credentials.test(credential, by=SHELL)
    assert result.ok
    assert "1 task" in message_of(credential, result)
    credential.refresh_from_db()
    assert credential.failing_since is None


# --- Tests that a crash interrupted


@pytest.fixture
def interrupted(arize, credential, monkeypatch):
    """A test whose process died while Arize answered, and its start time."""

    def die(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(key_tests, "_look", die)
        with pytest.raises(SystemExit):
            credentials.test(credential, by=SHELL)
    assert events() == [("credential.test", "requested")]
    return timezone.now()


def test_the_sweep_ends_an_interrupted_test_once(credential, interrupted):
    with time_machine.travel(interrupted + LONGEST_TEST - timedelta(seconds=1)):
        assert credentials.sweep() == 0, "it may still be in progress"
    with time_machine.travel(interrupted + LONGEST_TEST + timedelta(seconds=1)):
        assert credentials.sweep() == 1
        assert credentials.sweep() == 0
    requested, end = AuditEvent.objects.order_by("pk")
    assert (end.outcome, end.operation_id, end.details) == ("failed", requested.operation_id, {"why": "interrupted"})
    assert (end.actor_type, end.actor_label, end.credential_id) == ("job", "sweep", credential.pk)
    assert sentence(end) == "The test of the API key Production was interrupted: result unknown"
    credential.refresh_from_db()
    assert credential.failing_since is None, "the test says nothing about the key itself"


def test_the_sweep_leaves_finished_tests_alone(arize, credential):
    add_lists(arize)
    credentials.test(credential, by=SHELL)
    with time_machine.travel(timezone.now() + 2 * LONGEST_TEST):
        assert credentials.sweep() == 0
    assert events() == [("credential.test", "requested"), ("credential.test", "ok")]


def test_a_test_slower_than_the_sweep_still_records_its_result(arize, credential, monkeypatch):
    add_lists(arize)
    look = key_tests._look

    def slowly(requested):
        with time_machine.travel(timezone.now() + 2 * LONGEST_TEST):
            assert credentials.sweep() == 1
        return look(requested)

    monkeypatch.setattr(key_tests, "_look", slowly)
    assert credentials.test(credential, by=SHELL).ok
    operation = AuditEvent.objects.earliest("pk").operation_id
    assert events(operation_id=operation) == [*FAILED, ("credential.test", "ok")]


def test_the_command_ends_interrupted_tests_and_says_so(credential, interrupted):
    with time_machine.travel(interrupted + 2 * LONGEST_TEST):
        call_command("sweep", stdout=(out := StringIO()))
    assert out.getvalue() == "1 key test ended as failed.\n0 cancellations closed.\n"
    assert AuditEvent.objects.latest("pk").actor_type == "command"


def test_the_worker_ends_interrupted_tests_each_minute(credential, interrupted):
    with time_machine.travel(interrupted + 2 * LONGEST_TEST):
        jobs.sweep()
    assert events() == FAILED
