"""The client: documented answers, broken answers, and the requests it sends."""

import gc
import gzip
import json
import time
import tracemalloc

import pytest
import requests
import responses

from taskruns import __version__
from taskruns.arize import errors
from taskruns.arize.client import ArizeClient
from taskruns.arize.paging import Page
from taskruns.arize.wire import RunStatus
from taskruns.outbound import connection
from taskruns.outbound.session import USER_AGENT
from tests.arize.calls import DOCUMENTED, HOST, KEY, failure
from tests.paths import CANCEL_ANSWER

SAMPLE = CANCEL_ANSWER.read_text()
RUN = f"{HOST}/v2/task-runs/r1"
RUNS = f"{HOST}/v2/tasks/t1/runs"
CANCEL = f"{RUN}/cancel"


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    monkeypatch.setattr(connection, "BACKOFF", 0.0)
    monkeypatch.setattr(connection, "JITTER", 0.0)


@pytest.fixture
def client():
    with ArizeClient(HOST, KEY) as opened:
        yield opened


@pytest.fixture
def arize():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.mark.parametrize(("status", "kind"), DOCUMENTED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_each_status_has_its_own_error(client, arize, status, kind, method):
    problem = {
        "type": "https://arize.com/docs/ax/rest-reference/errors#x",
        "title": "A title",
        "status": status,
        "detail": "Some detail",
        "error_code": "X",
        "entitlement": "Y",
        "request_id": "req_1",
    }
    arize.add(method, RUN if method == "GET" else CANCEL, json=problem, status=status)
    error = failure(client.get_run if method == "GET" else client.cancel_run, "r1")
    assert type(error) is kind
    assert (error.status, error.title, error.detail) == (status, "A title", "Some detail")
    assert error.request_id == "req_1"
    assert error.milliseconds >= 0
    assert str(error) == error.sentence
    assert "Some detail" not in error.sentence


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html><h1>Bad gateway</h1></html>",
        "[]",
        "null",
        '"x"',
        '{"title": 5, "detail": ["x"]}',
        "{",
        b"\xff\xfe",
    ],
)
def test_error_without_a_problem_document_follows_its_status(client, arize, body):
    arize.get(RUN, body=body, status=403, headers={"X-Request-ID": "edge-9\x07"})
    error = failure(client.get_run, "r1")
    assert type(error) is errors.Forbidden
    assert (error.title, error.detail, error.request_id) == ("", "", "edge-9")
    assert "gateway" not in error.sentence


def test_problem_text_is_one_short_line_without_the_key(client, arize):
    title = "Bad\r\nrequest\x1b[31m \u2028now\u202e"
    arize.get(RUN, status=400, json={"title": title, "detail": f"{'x' * 200} key {KEY} " + "y" * 500})
    error = failure(client.get_run, "r1")
    assert error.title == "Bad request [31m now"
    assert " key [key] yyy" in error.detail
    assert error.detail.endswith("…")
    assert len(error.title) + len(error.detail) == 300


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>", "[]", "null", "12", "{", "{}", '{"id": ""}', '{"id": null}'),
        *(b"\xff\xfe\xfa", "[" * 100_000, '{"id": ' + "9" * 5000 + "}"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_success_without_a_run_is_unreadable(client, arize, body, method):
    arize.add(method, RUN if method == "GET" else CANCEL, body=body, status=200)
    error = failure(client.get_run if method == "GET" else client.cancel_run, "r1")
    assert type(error) is errors.Unreadable
    assert error.status == 200


@pytest.mark.parametrize("call", ["list_spaces", "list_tasks"])
@pytest.mark.parametrize("body", ["{}", '{"items": []}', '{"spaces": null, "tasks": null}'])
def test_list_without_its_member_is_empty(client, arize, call, body):
    arize.get(f"{HOST}/v2/{call.removeprefix('list_')}", body=body)
    assert getattr(client, call)() == Page(items=(), next_cursor=None)


@pytest.mark.parametrize("call", ["list_spaces", "list_tasks"])
@pytest.mark.parametrize("body", ["[]", "", "null", '"x"', '{"spaces": {}, "tasks": "x"}'])
def test_invalid_list_is_unreadable(client, arize, call, body):
    arize.get(f"{HOST}/v2/{call.removeprefix('list_')}", body=body)
    assert type(failure(getattr(client, call))) is errors.Unreadable


def test_single_run_of_more_than_200_kb_is_unreadable(client, arize):
    for length in (199_000, 200_000):
        body = gzip.compress(json.dumps({"id": "r1", "failure_reason": "0" * length}).encode())
        arize.get(RUN, body=body, headers={"Content-Encoding": "gzip"}, auto_calculate_content_length=True)
    assert len(client.get_run("r1").failure_reason) == 199_000
    assert type(failure(client.get_run, "r1")) is errors.Unreadable


def test_page_of_up_to_2_mb_is_read(client, arize):
    run = {"id": "r1", "failure_reason": "0" * 1_900_000}
    arize.get(RUNS, json={"task_runs": [run]})
    assert len(client.list_runs("t1").items[0].failure_reason) == 1_900_000


def test_error_that_is_too_long_follows_its_status(client, arize):
    arize.get(RUN, json={"title": "x" * 300_000}, status=403)
    error = failure(client.get_run, "r1")
    assert (type(error), error.title) == (errors.Forbidden, "")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"task_runs":[' + b"{}," * 7_000_000 + b"{}]}", id="20 MB of empty objects"),
        pytest.param(b'{"task_runs":[' + b"{}," * 600_000 + b"{}]}", id="2 MB of empty objects"),
        pytest.param(b'{"task_runs":[' + b"[]," * 600_000 + b"[]]}", id="2 MB of empty lists"),
        pytest.param(b'{"task_runs":[' + b"1.5," * 400_000 + b"0]}", id="2 MB of numbers"),
        pytest.param(b'{"task_runs":[' + b'"a\\u00e4",' * 190_000 + b"0]", id="a list that does not end"),
        pytest.param(b'{"task_runs":' + b"[" * 1_900_000, id="nested lists"),
    ],
)
def test_hostile_page_costs_little_time_and_memory(client, arize, body):
    """Each is sent compressed, in a few kB. The limits of 30 MB and 1 s leave room for a slow machine."""
    arize.get(RUNS, body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    del body
    gc.collect()
    tracemalloc.start()
    began = time.thread_time()
    try:
        assert type(failure(client.list_runs, "t1")) is errors.Unreadable
        assert time.thread_time() - began < 1
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("headers", "wait"), [({"Retry-After": "42"}, 42), ({}, None)])
def test_rate_limit_is_reported_without_sleeping(client, arize, headers, wait):
    arize.get(RUN, status=429, headers=headers)
    error = failure(client.get_run, "r1")
    assert (error.retry_after, len(arize.calls), client.calls) == (wait, 1, 1)
    assert ("42 seconds" in error.sentence) == (wait == 42)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_get_is_retried_twice_and_counted(client, arize, status):
    arize.get(RUN, status=status, headers={"Retry-After": "3600"})
    error = failure(client.get_run, "r1")
    assert (type(error), error.retry_after) == (errors.ServerError, 3600)
    assert len(arize.calls) == client.calls == 3


def test_retried_get_returns_the_run(client, arize):
    arize.get(RUN, status=503)
    arize.get(RUN, body=SAMPLE)
    assert client.get_run("r1").num_successes == 4850
    assert client.calls == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 501])
def test_refused_get_is_not_retried(client, arize, status):
    arize.get(RUN, status=status)
    failure(client.get_run, "r1")
    assert len(arize.calls) == client.calls == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_cancel_is_never_retried(client, arize, status):
    arize.post(CANCEL, status=status, headers={"Retry-After": "0"})
    failure(client.cancel_run, "r1")
    assert len(arize.calls) == client.calls == 1


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (requests.ConnectTimeout("x"), errors.NotSent),
        (requests.exceptions.SSLError("x"), errors.NotSent),
        (requests.exceptions.InvalidURL("x"), errors.NotSent),
        (requests.ReadTimeout("x"), errors.NoAnswer),
        (requests.ConnectionError("x"), errors.NoAnswer),
        (requests.exceptions.ChunkedEncodingError("x"), errors.NoAnswer),
        (requests.exceptions.ContentDecodingError("x"), errors.NoAnswer),
        (OSError("x"), errors.NoAnswer),
    ],
)
def test_unsent_and_maybe_sent_requests_differ(client, arize, raised, kind):
    arize.post(CANCEL, body=raised)
    error = failure(client.cancel_run, "r1")
    assert type(error) is kind
    assert error.status is None
    assert error.milliseconds >= 0


def test_cancel_returns_the_run_of_the_sample_answer(client, arize):
    arize.post(CANCEL, body=SAMPLE)
    run = client.cancel_run("r1")
    assert (run.status, run.id) == (RunStatus.COMPLETED, "VGFza1J1bjo5OTpxUndY")


def test_request_follows_the_documentation(client, arize):
    arize.get(f"{HOST}/v2/tasks", json={"tasks": [{"id": "t"}], "pagination": {"next_cursor": "n="}})
    page = client.list_tasks(space_id="a/b=", cursor="c&d=", limit=7)
    sent = arize.calls[0].request
    assert sent.url == f"{HOST}/v2/tasks?space_id=a%2Fb%3D&limit=7&cursor=c%26d%3D"
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["Accept"] == "application/json"
    assert sent.headers["User-Agent"] == USER_AGENT
    assert (page.items[0].id, page.next_cursor) == ("t", "n=")
    assert f"taskruns/{__version__}" == USER_AGENT


def test_spaces_and_runs_are_listed(client, arize):
    arize.get(f"{HOST}/v2/spaces", json={"spaces": [{"id": "s", "name": "Prod"}], "pagination": {}})
    arize.get(f"{HOST}/v2/tasks/t/runs", json={"task_runs": [json.loads(SAMPLE)]})
    assert client.list_spaces(limit=1).items[0].name == "Prod"
    assert client.list_runs("t").items[0].status is RunStatus.COMPLETED
    assert arize.calls[1].request.params == {"limit": "100"}


def test_known_old_host_gets_the_filter_in_lower_case(arize):
    host = "https://old.example.com"
    runs = f"{host}/v2/tasks/t/runs"
    for status, code in (("RUNNING", 400), ("running", 200)):
        asked = responses.matchers.query_param_matcher({"status": status, "limit": "100"})
        arize.get(runs, status=code, json={"task_runs": []}, match=[asked])
    with ArizeClient(host, KEY) as first, ArizeClient(f"{host}/", KEY) as second:
        assert first.list_runs("t", status=RunStatus.RUNNING) == Page(items=(), next_cursor=None)
        second.list_runs("t", status=RunStatus.RUNNING)
        assert (first.calls, second.calls) == (2, 1)


def test_upgraded_host_gets_the_filter_in_upper_case_again(arize):
    host = "https://upgraded.example.com"
    runs = f"{host}/v2/tasks/t/runs"
    for statuses in ([400, 200], [400, 200], [200]):
        for status in statuses:
            arize.get(runs, status=status, json={"task_runs": []})
    with ArizeClient(host, KEY) as client:
        for _ in range(3):
            client.list_runs("t", status=RunStatus.FAILED)
    asked = [call.request.params["status"] for call in arize.calls]
    assert asked == ["FAILED", "failed", "failed", "FAILED", "FAILED"]


def test_filter_refused_in_upper_and_lower_case_raises_the_first_error(client, arize):
    runs = f"{HOST}/v2/tasks/t/runs"
    arize.get(runs, status=400, json={"detail": "first"})
    arize.get(runs, status=400, json={"detail": "second"})
    assert failure(client.list_runs, "t", status=RunStatus.PENDING).detail == "first"
    assert len(arize.calls) == 2


def test_the_other_case_of_the_filter_is_a_call_that_must_be_allowed(arize):
    arize.get(f"{HOST}/v2/tasks/t/runs", status=400, json={"detail": "no such filter"})
    with ArizeClient(HOST, KEY, may_retry=lambda: False) as client:
        error = failure(client.list_runs, "t", status=RunStatus.PENDING)
        assert (type(error), error.status, error.detail) == (errors.HalfAsked, 400, "no such filter")
    assert len(arize.calls) == 1


def test_400_without_a_filter_is_not_retried(client, arize):
    arize.get(f"{HOST}/v2/tasks/t/runs", status=400)
    assert type(failure(client.list_runs, "t")) is errors.BadRequest
    assert len(arize.calls) == 1


@pytest.mark.parametrize("key", ["", " ", "ak-\n", "ak\r\nX: y", "ak-\0", "ak-\x85", "ak-ключ", "ak-\ud800"])
def test_key_that_fits_no_header_is_not_sent(arize, key):
    with ArizeClient(HOST, key) as client:
        error = failure(client.get_run, "r1")
        assert failure(client.cancel_run, "r1").sentence == error.sentence
    assert type(error) is errors.Unauthorized
    assert (error.status, len(arize.calls), client.calls) == (None, 0, 0)
    assert "Nothing was sent" in error.sentence


@pytest.mark.parametrize("run_id", ["", ".", "..", "a\0b", "\ud800"])
def test_id_that_cannot_be_a_path_segment_is_not_sent(client, arize, run_id):
    for call in (client.get_run, client.cancel_run, client.list_runs):
        assert type(failure(call, run_id)) is errors.BadRequest
    assert type(failure(client.list_tasks, cursor="\udfff")) is errors.BadRequest
    assert len(arize.calls) == 0


def test_client_repr_hides_the_key(client):
    assert repr(client) == "<ArizeClient https://api.arize.com>"
    shown = repr(vars(client)) + repr(vars(client._reads))
    assert HOST in shown
    assert KEY not in shown
    assert client._bearer.secret == KEY
