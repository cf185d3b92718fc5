"""Each row of the cancel table: Arize's answer, the outcome, and the message to the person."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
import requests
import responses
from django.utils import timezone

from taskruns.arize.wire import WireRun
from taskruns.models import AuditEvent, Cancellation, Run, Status, User
from taskruns.services.runs.observations import record_observation
from tests.clients import ClientOf, click_cancel
from tests.paths import CANCEL_ANSWER
from tests.stored import events
from tests.wire import run_url, wire_run

Answer = Callable[[Run], dict[str, Any]]
BODY = "what-arize-wrote-in-its-body"


def says(status: str, **members: Any) -> Answer:
    return lambda run: {"json": wire_run(run, status, failure_reason=BODY, **members)}


def problem(status: int, *, detail: str = BODY, headers: dict[str, str] | None = None) -> Answer:
    document = {"status": status, "title": "Refused", "detail": detail, "request_id": "req_42"}
    return lambda _: {"status": status, "json": document, "headers": headers or {}}


def answers(status: int, body: str, content_type: str = "application/json") -> Answer:
    return lambda _: {"status": status, "body": body, "content_type": content_type}


def breaks(error: Exception) -> Answer:
    return lambda _: {"body": error}


@dataclass(frozen=True)
class End:
    """`outcome` is as in the audit log, or `stopping`; `status` is the run's afterwards; `words` are in the message."""

    outcome: str
    http: int
    status: str
    words: str


CONFIRMED = End("confirmed", 200, "cancelled", "Arize confirmed")
FINISHED = End("finished_first", 200, "completed", "already finished")
FAILED = End("failed_first", 200, "failed", "already failed")
ALREADY = End("already_cancelled", 200, "cancelled", "already cancelled")
UNKNOWN = End("unknown", 502, "running", "outcome is unknown")
REFUSED = End("refused", 409, "running", "refused")

SAID = {
    "CANCELLED": CONFIRMED,
    "cancelled": CONFIRMED,
    "Canceled": CONFIRMED,
    "COMPLETED": FINISHED,
    "completed": FINISHED,
    "FAILED": FAILED,
    "failed": FAILED,
}
LOST: dict[str, Answer] = {
    "read time-out": breaks(requests.ReadTimeout()),
    "cut": breaks(requests.ConnectionError("Connection aborted.")),
    "500": problem(500),
    "502 HTML": answers(502, "<html><h1>Bad gateway</h1></html>", "text/html"),
    "503": problem(503, headers={"Retry-After": "7"}),
    "504": problem(504),
    "408": problem(408),
    "200 empty": answers(200, ""),
    "200 HTML": answers(200, "<html>Sign in</html>", "text/html"),
    "200 list": answers(200, "[]"),
    "204": answers(204, ""),
}
UNREADABLE: dict[str, Answer] = {
    "500": problem(500),
    "cut": breaks(requests.ConnectionError("Connection aborted.")),
    "slow": breaks(requests.ReadTimeout()),
    "HTML": answers(200, "<html></html>", "text/html"),
    "404": problem(404),
    "401": problem(401),
    "429": problem(429),
}
ENDS = {"CANCELLED": CONFIRMED, "completed": FINISHED, "FAILED": FAILED}


@pytest.fixture
def check(arize: responses.RequestsMock, run: Run, oli: User, client_of: ClientOf) -> Callable[..., Cancellation]:
    """Cancel once and compare everything that shows the outcome."""

    def check(end: End, answer: Answer, *, reread: Answer | None = None, htmx: bool = True) -> Cancellation:
        post = arize.post(run_url(run, "/cancel"), **answer(run))
        read = arize.get(run_url(run), **reread(run)) if reread else None
        page = click_cancel(client_of(oli), run, htmx=htmx, reason="evaluates the wrong model")
        assert post.call_count == 1
        assert (read.call_count if read else 0) == bool(reread)
        _check_answer(page, run, end, htmx=htmx, client=client_of(oli))
        return _check_database(run, end, oli)

    return check


def _check_answer(page: Any, run: Run, end: End, *, htmx: Any, client: Any) -> None:
    if not htmx and end.http == 200:
        assert page.status_code == 302
        assert page.url == f"/teams/{run.team.slug}/runs/{run.pk}/"
        page = page.client.get(page.url)
    assert page.status_code == end.http if not htmx or end.http != 200 else page.status_code == 200
    text = page.content.decode()
    assert end.words in text
    assert f'data-status="{end.status}"' in text
    assert ("<!doctype html>" in text.lower()) is not htmx
    if htmx:
        assert text.lstrip().startswith(f'<tr id="run-{run.pk}"')
        assert text.index("</tr>") < text.index('hx-swap-oob="beforeend:#messages"')


def _check_database(run: Run, end: End, person: User) -> Cancellation:
    run.refresh_from_db()
    assert run.status == end.status
    assert run.rank == int(end.status in {"pending", "running"})
    cancellation = Cancellation.objects.get()
    assert cancellation.outcome == ("" if end.outcome == "stopping" else end.outcome)
    rows = list(AuditEvent.objects.filter(event="run.cancel").order_by("seq"))
    assert [row.outcome for row in rows] == ["requested"] + [end.outcome] * (end.outcome != "stopping")
    for row in rows:
        assert row.operation_id == cancellation.pk
        assert (row.actor_label, row.actor_role, row.actor_type) == (person.email, "operator", "user")
        assert (row.run_id, row.task_id, row.endpoint) == (run.arize_id, run.task.arize_id, run.endpoint)
        assert row.details["status_before"] == "running"
        assert BODY not in json.dumps(row.details) + row.reason
    assert rows[0].reason == cancellation.reason == "evaluates the wrong model"
    return cancellation


@pytest.mark.parametrize("status", SAID)
def test_the_outcome_follows_a_200_in_either_case(status: str, check: Any, htmx: Any) -> None:
    check(SAID[status], says(status), htmx=htmx)
    outcome = AuditEvent.objects.get(outcome=SAID[status].outcome)
    assert outcome.details["http_status"] == 200
    assert outcome.details["status_after"] == SAID[status].status
    assert outcome.details["num_successes"] == 10
    assert outcome.details["milliseconds"] >= 0


def test_the_documented_sample_answer_had_finished_first(check: Any, run: Run) -> None:
    sample = CANCEL_ANSWER.read_text()
    run.arize_id = json.loads(sample)["id"]
    run.save(update_fields=["arize_id"])
    check(FINISHED, answers(200, sample))
    run.refresh_from_db()
    assert (run.num_successes, run.num_errors, run.num_skipped) == (4850, 12, 138)


OTHER = '{"id": "VGFza1J1bjo5OTk=", "status": "CANCELLED"}'


@pytest.mark.parametrize("status", ["CANCELLED", "COMPLETED"])
def test_a_200_about_another_run_takes_the_outcome_from_the_run(status: str, check: Any) -> None:
    check(ENDS[status if status == "CANCELLED" else "completed"], answers(200, OTHER), reread=says(status))


def test_a_200_about_another_run_confirms_nothing(check: Any) -> None:
    check(End("stopping", 200, "running", "stopping"), answers(200, OTHER), reread=says("RUNNING"))


def test_a_reread_that_shows_another_run_says_nothing(check: Any) -> None:
    check(End("unknown", 502, "running", "outcome is unknown"), problem(500), reread=answers(200, OTHER))


@pytest.mark.parametrize("status", ["RUNNING", "running", "PENDING", "pending"])
def test_a_cancelled_run_that_keeps_running_is_stopping(status: str, check: Any, htmx: Any, run: Run) -> None:
    cancellation = check(
        End("stopping", 200, status.lower(), "stopping, requested by oli@example.com"), says(status), htmx=htmx
    )
    assert cancellation.stopping_since is not None
    assert cancellation.closed_at is None


def test_a_run_with_an_unknown_status_is_read_again(check: Any) -> None:
    assert check(End("stopping", 200, "unknown", "ARCHIVING"), says("ARCHIVING")).stopping_since is not None


@pytest.mark.parametrize("status", ["COMPLETED", "failed", "CANCELLED"])
@pytest.mark.parametrize("code", [400, 409])
def test_a_refusal_for_an_ended_run_is_no_error(code: int, status: str, check: Any, htmx: Any) -> None:
    end = {"COMPLETED": FINISHED, "failed": FAILED, "CANCELLED": ALREADY}[status]
    check(end, problem(code), reread=says(status), htmx=htmx)
    details = AuditEvent.objects.get(outcome=end.outcome).details
    assert details["http_status"] == code
    assert details["arize_request_id"] == "req_42"


@pytest.mark.parametrize("status", ["RUNNING", "pending"])
@pytest.mark.parametrize("code", [400, 409])
def test_a_refusal_of_an_active_run_shows_arizes_own_words(code: int, status: str, check: Any, htmx: Any) -> None:
    detail = "cannot\x1b[31m cancel\r\n<img src=x onerror=alert(1)> " + "x" * 400
    end = End("refused", 409, status.lower(), "&lt;img src=x onerror=alert(1)&gt; xxx")
    cancellation = check(end, problem(code, detail=detail), reread=says(status), htmx=htmx)
    words = cancellation.explanation.partition("Arize says: ")[2]
    assert words.startswith("Refused: cannot")
    assert len(words) <= 302
    assert words.isprintable()


@pytest.mark.parametrize("reread", UNREADABLE)
@pytest.mark.parametrize("code", [400, 409])
def test_an_unreadable_run_after_a_refusal_is_refused(code: int, reread: str, check: Any) -> None:
    check(REFUSED, problem(code), reread=UNREADABLE[reread])


@pytest.mark.parametrize(
    ("code", "words", "status"),
    [
        (401, "Arize rejected this API key", "running"),
        (403, "may not do it", "running"),
        (422, "Arize cannot carry out this request", "running"),
        (302, "unexpected answer", "running"),
        (418, "unexpected answer", "running"),
    ],
)
def test_the_message_says_why_arize_refused(code: int, words: str, status: str, check: Any, htmx: Any) -> None:
    check(End("refused", 409, status, words), problem(code), htmx=htmx)


@pytest.mark.parametrize(
    ("reread", "status"), [(problem(404), "gone"), (says("RUNNING"), "running"), (says("COMPLETED"), "completed")]
)
def test_a_run_that_arize_did_not_find_is_gone_only_if_it_cannot_be_read_either(
    reread: Any, status: str, check: Any, htmx: Any
) -> None:
    """404 is also the answer to a key that may not cancel, and a moment's mistake of Arize."""
    check(End("refused", 409, status, "Arize did not find this"), problem(404), reread=reread, htmx=htmx)


@pytest.mark.parametrize(
    ("headers", "words"),
    [({"Retry-After": "42"}, "Try again in 42 seconds"), ({}, "Wait a little, then try again")],
)
def test_after_a_429_the_message_says_when_to_retry(headers: Any, words: str, check: Any, htmx: Any) -> None:
    check(End("refused", 429, "running", words), problem(429, headers=headers), htmx=htmx)


@pytest.mark.parametrize("error", [requests.ConnectTimeout(), requests.exceptions.SSLError("foreign certificate")])
def test_without_a_connection_the_message_says_nothing_was_sent(error: Exception, check: Any, htmx: Any) -> None:
    check(End("not_sent", 502, "running", "Nothing was sent"), breaks(error), htmx=htmx)


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("lost", LOST)
def test_a_lost_cancel_takes_its_outcome_from_the_run(lost: str, status: str, check: Any) -> None:
    check(ENDS[status], LOST[lost], reread=says(status))


@pytest.mark.parametrize("status", ["RUNNING", "pending", "ARCHIVING"])
@pytest.mark.parametrize("lost", LOST)
def test_a_lost_cancel_of_a_running_run_is_unknown(lost: str, status: str, check: Any) -> None:
    after = "unknown" if status == "ARCHIVING" else status.lower()
    assert check(End("unknown", 502, after, "outcome is unknown"), LOST[lost], reread=says(status)).followed


def test_a_200_without_a_status_is_stopping_while_the_run_is_active(check: Any) -> None:
    accepted = answers(200, '{"id": "x"}')
    assert check(End("stopping", 200, "running", "stopping"), accepted, reread=says("RUNNING")).stopping_since
    assert Cancellation.objects.get().answer["http_status"] == 200


@pytest.mark.parametrize("reread", UNREADABLE)
@pytest.mark.parametrize("lost", LOST)
def test_a_lost_cancel_of_an_unreadable_run_is_unknown(lost: str, reread: str, check: Any) -> None:
    assert check(UNKNOWN, LOST[lost], reread=UNREADABLE[reread]).followed


def test_a_plain_form_gets_a_full_page_when_the_outcome_is_unknown(check: Any) -> None:
    check(UNKNOWN, LOST["cut"], reread=UNREADABLE["500"], htmx=False)


def test_one_empty_post_is_sent_with_the_key_and_the_quoted_id(
    arize: responses.RequestsMock, run: Run, oli: User, client_of: ClientOf
) -> None:
    Run.objects.update(arize_id="odd/id?=")
    run.refresh_from_db()
    arize.post("http://arize.test:9999/v2/task-runs/odd%2Fid%3F%3D/cancel", json=wire_run(run, "CANCELLED"))
    assert click_cancel(client_of(oli), run).status_code == 200
    sent = arize.calls[0].request
    assert sent.headers["Authorization"].startswith("Bearer ak-canary")
    assert (sent.body, sent.headers["Content-Length"], "Content-Type" in sent.headers) == (None, "0", False)


def test_cancelling_again_after_an_unknown_outcome_is_a_new_operation(
    arize: responses.RequestsMock, run: Run, oli: User, client_of: ClientOf
) -> None:
    post = arize.post(run_url(run, "/cancel"), body=requests.ReadTimeout())
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    assert click_cancel(client_of(oli), run).status_code == 502
    arize.replace(responses.POST, run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert click_cancel(client_of(oli), run).status_code == 200
    assert post.call_count == 1
    first, second = Cancellation.objects.order_by("requested_at")
    assert (first.outcome, second.outcome) == ("unknown", "confirmed")
    assert events(operation_id=first.pk) == [("run.cancel", "requested"), ("run.cancel", "unknown")]
    assert events(operation_id=second.pk) == [("run.cancel", "requested"), ("run.cancel", "confirmed")]
    again = AuditEvent.objects.get(operation_id=second.pk, outcome="requested")
    assert again.details["previous_operation"] == str(first.pk)
    run.refresh_from_db()
    assert run.status == Status.CANCELLED


def test_a_list_requested_during_the_cancel_does_not_undo_it(
    run: Run, oli: User, client_of: ClientOf, arize: responses.RequestsMock
):
    """Arize answers slowly: a round of the mirror starts after the cancel and still sees the run as running."""
    begun: list[datetime] = []

    def slowly(_request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        begun.append(timezone.now())
        record_observation(run, WireRun.from_json(wire_run(run, "RUNNING", num_successes=7)), begun[0])
        return 200, {}, json.dumps(wire_run(run, "CANCELLED"))

    arize.add_callback("POST", run_url(run, "/cancel"), slowly)
    answer = click_cancel(client_of(oli), run)
    row = Run.objects.get(pk=run.pk)
    assert (answer.status_code, row.status) == (200, "cancelled")
    # The same list, answered after the cancel.
    assert not record_observation(run, WireRun.from_json(wire_run(run, "RUNNING", num_successes=8)), begun[0])
    assert Run.objects.get(pk=run.pk).status == "cancelled"
