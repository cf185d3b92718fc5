"""`POST task-runs/{id}/cancel`: the table of answers, row by row, and what is sent and recorded for each."""

import json
from contextlib import ExitStack
from typing import Any

import pytest
import responses
from django.db import DatabaseError
from django.utils import timezone

from taskruns.models import (
    LONGEST_REASON,
    AuditEvent,
    Cancellation,
    Credential,
    KeyUsage,
    Outcome,
    Run,
    Status,
    Task,
    Team,
    Token,
    TokenRole,
)
from taskruns.services import cancellations
from taskruns.services.credentials.budget import Kind
from taskruns.services.gateway import acts, places
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import CANARY, make_credential, make_run, make_token
from tests.gateway.scripts import PROBLEM, Script, problem_of
from tests.wire import ENDPOINT, run_url, wire_run

SECOND = "ak-second-1Xy7Qz4Mn8Lk2Jh5"


def posts(arize: responses.RequestsMock) -> int:
    return sum(call.request.method == "POST" for call in arize.calls)


def outcomes() -> list[str]:
    return list(AuditEvent.objects.filter(event="run.cancel").order_by("pk").values_list("outcome", flat=True))


@pytest.mark.parametrize("status", ["CANCELLED", "cancelled", "RUNNING", "running", "PENDING"])
def test_accepted_cancel_answers_with_arizes_own_body(
    status: str, script: Script, run: Run, arize: responses.RequestsMock
):
    """In the server's own casing, with members that the panel does not know."""
    raw = wire_run(run, status, brand_new={"a": [1, None]}, num_errors=0)
    arize.post(run_url(run, "/cancel"), json=raw)
    found = script.cancel(run.arize_id)
    assert (found.status_code, found.json()) == (200, raw)
    assert list(found.json()) == list(raw)
    assert posts(arize) == 1
    assert outcomes() == (["requested", "confirmed"] if "ANC" in status.upper() else ["requested"])


def test_cancel_is_the_tokens_act(
    script: Script, token: tuple[Token, str], run: Run, team: Team, arize: responses.RequestsMock
):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    script.cancel(run.arize_id, X_Taskruns_Reason="nightly clean-up", User_Agent="ax/0.39")
    requested = AuditEvent.objects.get(outcome="requested")
    assert (requested.actor_type, requested.actor_label) == ("token", token[0].label)
    assert (requested.reason, requested.user_agent) == ("nightly clean-up", "ax/0.39")
    assert requested.chain == f"team:{team.pk}"
    row = Cancellation.objects.get()
    assert (row.token, row.person, row.reason) == (token[0], None, "nightly clean-up")
    sent = arize.calls[0].request
    assert (sent.headers["Authorization"], sent.body) == (f"Bearer {CANARY}", None)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("plain", "plain"),
        ("N\xc3\xa4chster Lauf", "N\u00e4chster Lauf"),
        ("N\xe4chster", "N\u00e4chster"),
        ("=?utf-8?q?N=C3=A4chster?=", "N\u00e4chster"),
        ("=?x?=", "=?x?="),
        ("=?\xe9?q?x?=", "=?\xe9?q?x?="),
        ("a\tb\x1b[31m\u2028", None),
        ("x" * 5_000, None),
        ("", ""),
    ],
)
def test_reason_is_one_clean_line(
    sent: str, stored: str | None, script: Script, run: Run, arize: responses.RequestsMock
):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert script.cancel(run.arize_id, X_Taskruns_Reason=sent).status_code == 200
    reason = Cancellation.objects.get().reason
    assert reason.isprintable()
    assert len(reason) <= LONGEST_REASON
    assert stored is None or reason == stored


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_run_known_to_have_ended_needs_no_request(
    status: Status, script: Script, task: Task, arize: responses.RequestsMock
):
    run = make_run(task, status=status)
    assert problem_of(script.cancel(run.arize_id)) == (400, f"cannot cancel a run with status '{status.value}'")
    assert not arize.calls
    assert outcomes() == ["not_needed"]


def test_run_with_a_status_unknown_to_the_panel_is_not_said_to_have_ended(
    script: Script, task: Task, arize: responses.RequestsMock
):
    """Clients take a 400 for the answer that the run has ended."""
    run = make_run(task, status=Status.UNKNOWN, raw_status="QUEUED")
    status, detail = problem_of(script.cancel(run.arize_id))
    assert (status, "nothing was sent" in detail) == (409, True)
    assert not arize.calls


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("COMPLETED", "finished_first"), ("failed", "failed_first"), ("CANCELLED", "already_cancelled")],
)
def test_run_that_ended_first_is_a_400_that_clients_know(
    status: str, outcome: str, script: Script, run: Run, arize: responses.RequestsMock
):
    arize.post(run_url(run, "/cancel"), status=400, json={"title": "Bad Request", "detail": "no"})
    arize.get(run_url(run), json=wire_run(run, status))
    found = problem_of(script.cancel(run.arize_id))
    assert found == (400, f"cannot cancel a run with status '{status.lower()}'")
    assert outcomes() == ["requested", outcome]


@pytest.mark.parametrize("status", [401, 403, 409, 422])
def test_refusal_keeps_arizes_status_and_problem(status: int, script: Script, run: Run, arize: responses.RequestsMock):
    body = {"type": "x", "title": "Own title", "status": status, "detail": f"own detail {CANARY}"}
    arize.post(run_url(run, "/cancel"), status=status, json=body)
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    found = script.cancel(run.arize_id)
    assert problem_of(found) == (status, "own detail [key]")
    assert b'"title": "Own title"' in found.content
    assert outcomes() == ["requested", "refused"]


@pytest.mark.parametrize("status", [400, 403])
def test_refusal_without_a_problem_has_the_panels_sentence(
    status: int, script: Script, run: Run, arize: responses.RequestsMock
):
    arize.post(run_url(run, "/cancel"), status=status, body="<html>", content_type="text/html")
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    code, detail = problem_of(script.cancel(run.arize_id))
    assert code == status
    assert detail.startswith("Arize re")


def test_429_of_arize_keeps_its_wait(script: Script, run: Run, arize: responses.RequestsMock):
    arize.post(run_url(run, "/cancel"), status=429, headers={"Retry-After": "17"}, json={"detail": "slow down"})
    found = script.cancel(run.arize_id)
    assert (problem_of(found), found["Retry-After"]) == ((429, "slow down"), "17")
    assert KeyUsage.objects.get().limited == 1


def test_cancel_beyond_the_share_sends_nothing(
    script: Script, run: Run, credential: Credential, arize: responses.RequestsMock
):
    now = timezone.now().timestamp()
    Credential.objects.filter(pk=credential.pk).update(recent_calls=[[now, Kind.SCRIPT, 100]])
    found = script.cancel(run.arize_id)
    assert problem_of(found)[0] == 429
    assert 1 <= int(found["Retry-After"]) <= 60
    assert not arize.calls
    assert not Cancellation.objects.exists()


def test_unsent_cancel_is_a_502(script: Script, run: Run, arize: responses.RequestsMock, settings: Any):
    settings.ARIZE_ENDPOINTS = ()
    assert problem_of(script.cancel(run.arize_id))[0] == 502
    assert outcomes() == ["requested", "not_sent"]


@pytest.mark.parametrize("body", [ConnectionResetError("cut"), b"<html>"], ids=["cut", "unreadable"])
def test_lost_answer_is_a_504(body: Any, script: Script, run: Run, arize: responses.RequestsMock):
    arize.post(run_url(run, "/cancel"), body=body)
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    assert problem_of(script.cancel(run.arize_id))[0] == 504
    assert outcomes() == ["requested", "unknown"]


def test_lost_answer_of_a_cancelled_run_is_a_200(script: Script, run: Run, arize: responses.RequestsMock):
    arize.post(run_url(run, "/cancel"), body=ConnectionResetError("cut"))
    arize.get(run_url(run), json=wire_run(run, "Cancelled"))
    found = script.cancel(run.arize_id)
    assert (found.status_code, found.json()["status"]) == (200, "Cancelled")


def test_unwritable_audit_row_is_a_503_and_nothing_is_sent(script: Script, run: Run, arize: responses.RequestsMock):
    refuse_inserts("taskruns_auditevent")
    assert problem_of(script.cancel(run.arize_id))[0] == 503
    assert not arize.calls
    accept_inserts("taskruns_auditevent")
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert script.cancel(run.arize_id).status_code == 200


def test_unwritable_outcome_is_a_504(script: Script, run: Run, arize: responses.RequestsMock):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    refuse_inserts("taskruns_auditevent", unless="NEW.outcome = 'requested'")
    assert problem_of(script.cancel(run.arize_id))[0] == 504
    assert posts(arize) == 1


def test_database_that_fails_after_the_request_is_a_504(
    script: Script, run: Run, task: Task, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    """The answer must not say that nothing was sent."""

    def fail(*_: Any) -> None:
        raise DatabaseError

    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    monkeypatch.setattr("taskruns.services.cancellations.actions.learn_of_key", fail)
    assert problem_of(script.cancel(run.arize_id))[0] == 504
    monkeypatch.undo()
    other = make_run(task)
    arize.post(run_url(other, "/cancel"), json=wire_run(other, "CANCELLED"))
    monkeypatch.setattr(acts, "end_of", fail)
    assert problem_of(script.cancel(other.arize_id))[0] == 504
    status, detail = problem_of(script.cancel(other.arize_id))
    assert (status, "Nothing was sent" in detail) == (503, True)  # it has ended, so nothing was
    assert posts(arize) == 2


def test_viewers_token_gets_a_403_and_is_recorded(
    run: Run, team: Team, arize: responses.RequestsMock, credential: Credential
):
    token, secret = make_token(team, role=TokenRole.VIEWER)
    known, unknown = Script(secret).cancel(run.arize_id), Script(secret).cancel("VGFza1J1bjo5")
    assert problem_of(known)[0] == 403
    assert known.content == unknown.content
    assert not arize.calls
    rows = list(AuditEvent.objects.values_list("event", "outcome", "actor_label"))
    assert rows == [("run.cancel", "denied", token.label)] * 2


# --- Runs that the mirror does not know, or not from this key


def test_unknown_run_is_read_first_and_then_cancelled(script: Script, arize: responses.RequestsMock):
    raw = {"id": "R9", "task_id": "T9", "status": "RUNNING"}
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", json=raw)
    arize.post(f"{ENDPOINT}/v2/task-runs/R9/cancel", json=raw | {"status": "CANCELLED"})
    assert script.cancel("R9").json() == raw | {"status": "CANCELLED"}
    assert [call.request.method for call in arize.calls] == ["GET", "POST"]
    assert Run.objects.get(arize_id="R9").status == "cancelled"


def test_unknown_run_that_has_ended_needs_no_post(script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", json={"id": "R9", "task_id": "T9", "status": "FAILED"})
    assert problem_of(script.cancel("R9")) == (400, "cannot cancel a run with status 'failed'")
    assert posts(arize) == 0


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_run_that_the_key_does_not_see_gets_arizes_answer(status: int, script: Script, arize: responses.RequestsMock):
    body = json.dumps({"title": "Own", "status": status}).encode()
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", body=body, status=status, content_type=PROBLEM)
    found = script.cancel("R9")
    assert (found.status_code, found.content) == (status, body)
    assert not Cancellation.objects.exists()


def test_answer_about_another_run_is_no_run(script: Script, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", json={"id": "R8", "status": "RUNNING"})
    assert problem_of(script.cancel("R9"))[0] == 502
    assert not Run.objects.filter(arize_id__in=["R8", "R9"]).exists()


def test_run_of_another_key_must_be_visible_to_the_tokens_own(
    script: Script, run: Run, team: Team, token: tuple[Token, str], arize: responses.RequestsMock
):
    """The cancel is also sent with the token's key, which may have fewer rights."""
    own = make_credential(team, name="Second", key=SECOND)
    Token.objects.update(credential=own)
    arize.get(run_url(run), status=404, json={"title": "No"})
    assert script.cancel(run.arize_id).status_code == 404
    arize.replace(responses.GET, run_url(run), json=wire_run(run))
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert script.cancel(run.arize_id).status_code == 200
    assert {call.request.headers["Authorization"] for call in arize.calls} == {f"Bearer {SECOND}"}


def test_run_of_another_team_is_not_touched(other_team: Team, run: Run, arize: responses.RequestsMock, script: Script):
    theirs = make_credential(other_team, key=SECOND)
    _, secret = make_token(other_team)
    arize.get(run_url(run), status=404, json={"title": "No"})
    assert Script(secret).cancel(run.arize_id).status_code == 404
    assert arize.calls[0].request.headers["Authorization"] == f"Bearer {SECOND}"
    assert not Run.objects.filter(team=other_team).exists()
    assert not Cancellation.objects.exists()
    assert theirs.team == other_team


def test_run_that_is_gone_is_a_404(script: Script, task: Task, arize: responses.RequestsMock):
    run = make_run(task, status=Status.GONE)
    assert problem_of(script.cancel(run.arize_id))[0] == 404
    assert not arize.calls


# --- Cancels that another request or the worker sends


def an_open_cancel(run: Run, **fields: Any) -> Cancellation:
    return Cancellation.objects.create(run=run, person_label="oli@example.com", **fields)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "LONGEST_FOLLOW", 0.2)
    monkeypatch.setattr(acts, "YOUNG", 0.15)


@pytest.mark.usefixtures("_patient")
def test_joined_cancel_without_an_outcome_in_time_is_a_504(script: Script, run: Run, arize: responses.RequestsMock):
    an_open_cancel(run)
    assert problem_of(script.cancel(run.arize_id))[0] == 504
    assert not arize.calls
    assert outcomes() == ["joined"]


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize(
    ("outcome", "fields", "status"),
    [
        (Outcome.CONFIRMED, {}, 200),
        (Outcome.OPEN, {"stopping_since": timezone.now()}, 200),
        (Outcome.STILL_RUNNING, {}, 200),
        (Outcome.FINISHED_FIRST, {}, 400),
        (Outcome.FAILED_FIRST, {}, 400),
        (Outcome.ALREADY_CANCELLED, {}, 400),
        (Outcome.REFUSED, {"answer": {"http_status": 403}}, 403),
        (Outcome.REFUSED, {"answer": {"http_status": 429}}, 429),
        (Outcome.NOT_SENT, {}, 502),
        (Outcome.UNKNOWN, {}, 504),
    ],
)
def test_joined_cancel_gets_the_answer_of_the_first(
    outcome: Outcome, fields: Any, status: int, script: Script, run: Run, monkeypatch: pytest.MonkeyPatch
):
    """The first one's outcome comes while this one waits."""
    first = an_open_cancel(run)
    raw = wire_run(run, "CANCELLED", brand_new=1)
    look = Cancellation.objects.filter

    def close_first(*args: Any, **kwargs: Any) -> Any:
        look(pk=first.pk).update(outcome=outcome, explanation="said so", **fields)
        Run.objects.filter(pk=run.pk).update(as_read=json.dumps(raw))
        return wait(*args, **kwargs)

    wait = acts.wait_for
    monkeypatch.setattr(acts, "wait_for", close_first)
    found = script.cancel(run.arize_id)
    assert found.status_code == status
    if status == 200:
        assert found.json() == raw
    else:
        problem_of(found)


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("sending", [1, 2])
def test_few_cancels_wait_long_for_the_first(sending: int, script: Script, run: Run, monkeypatch: pytest.MonkeyPatch):
    """In all, at most one thread more than there are places waits for Arize."""
    waited = []
    first = an_open_cancel(run)
    monkeypatch.setattr(acts, "wait_for", lambda _pk, *, seconds: waited.append(seconds) or first)
    with ExitStack() as taken:
        for _ in range(sending):
            taken.enter_context(places.of_scripts.place(is_read=False))
        for _ in range(2):
            script.cancel(run.arize_id)
            taken.enter_context(places.of_scripts.follow())
        script.cancel(run.arize_id)
    assert waited.count(acts.LONGEST_FOLLOW) == 2
    assert waited[-1] != acts.LONGEST_FOLLOW


@pytest.mark.usefixtures("_patient")
def test_cancel_without_a_place_is_left_to_the_worker(
    script: Script, run: Run, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    """It is recorded, and the worker is woken."""
    woken = []
    monkeypatch.setattr("taskruns.jobs.wake_cancels", lambda: woken.append(1))
    with ExitStack() as taken:
        for _ in range(places.PLACES):
            taken.enter_context(places.of_scripts.place(is_read=False))
        assert problem_of(script.cancel(run.arize_id))[0] == 504
    row = Cancellation.objects.get()
    assert (row.posted_at, row.token_id is not None, woken, len(arize.calls)) == (None, True, [1], 0)
    assert outcomes() == ["requested"]


def test_cancel_that_the_worker_sends_gets_its_outcome(
    script: Script, token: tuple[Token, str], run: Run, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
):
    raw = wire_run(run, "CANCELLED", brand_new=1)
    arize.post(run_url(run, "/cancel"), json=raw)
    monkeypatch.setattr("taskruns.jobs.wake_cancels", cancellations.send_unsent)
    with ExitStack() as taken:
        for _ in range(places.PLACES):
            taken.enter_context(places.of_scripts.place(is_read=False))
        found = script.cancel(run.arize_id)
    assert (found.status_code, found.json()) == (200, raw)
    assert outcomes() == ["requested", "confirmed"]
    labels = set(AuditEvent.objects.values_list("actor_type", "actor_label"))
    assert labels == {("token", token[0].label)}


def test_read_without_a_place_is_a_503(script: Script, run: Run, arize: responses.RequestsMock):
    with ExitStack() as taken:
        for _ in range(places.READS):
            taken.enter_context(places.of_scripts.place(is_read=True))
        found = script.get("tasks")
    assert (problem_of(found)[0], found["Retry-After"]) == (503, "2")
    assert not arize.calls
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert script.cancel(run.arize_id).status_code == 200
