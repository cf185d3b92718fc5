"""Triggering a run over HTTP: the request, sent once, and the meaning of each answer."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import requests
import responses

from taskruns.arize import errors
from taskruns.arize.client import ArizeClient
from taskruns.arize.triggers import EvaluationTrigger, ExperimentTrigger
from taskruns.arize.wire import RunStatus
from tests.arize.calls import DOCUMENTED, HOST, KEY, failure

URL = f"{HOST}/v2/tasks/T25saW5l%3D/trigger"
BERLIN = timezone(timedelta(hours=1))
WINDOW = (datetime(2026, 11, 1, 1, tzinfo=BERLIN), datetime(2026, 11, 23, 3, 0, 5, 250_999, tzinfo=UTC))
WANTED = EvaluationTrigger(WINDOW)
RUN = {"id": "r1", "task_id": "T25saW5l=", "status": "PENDING", "created_at": "2026-11-23T03:00:06.000Z"}


@pytest.fixture
def client() -> Any:
    with ArizeClient(HOST, KEY) as opened:
        yield opened


def test_trigger_sends_json_and_returns_the_new_run(client: ArizeClient, arize: responses.RequestsMock) -> None:
    arize.post(URL, status=201, json=RUN)
    run = client.trigger_run("T25saW5l=", WANTED)
    assert (run.id, run.status, client.calls) == ("r1", RunStatus.PENDING, 1)
    sent = arize.calls[0].request
    assert sent.url == URL
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert json.loads(sent.body or "") == WANTED.as_json()


@pytest.mark.parametrize(
    ("wanted", "body"),
    [
        (
            EvaluationTrigger(WINDOW, max_spans=5, override_evaluations=True),
            {
                "data_start_time": "2026-11-01T00:00:00.000Z",
                "data_end_time": "2026-11-23T03:00:05.250Z",
                "max_spans": 5,
                "override_evaluations": True,
            },
        ),
        (EvaluationTrigger(), {"max_spans": 10_000, "override_evaluations": False}),
        (
            EvaluationTrigger(experiment_ids=("e1", "e2")),
            {"max_spans": 10_000, "override_evaluations": False, "experiment_ids": ["e1", "e2"]},
        ),
        (ExperimentTrigger("Prompt 12"), {"experiment_name": "Prompt 12"}),
        (
            ExperimentTrigger("P", "v1", ("x",), None, "a = 1", {"team": "north"}, ("T1",)),
            {
                "experiment_name": "P",
                "dataset_version_id": "v1",
                "example_ids": ["x"],
                "query_filter": "a = 1",
                "tracing_metadata": {"team": "north"},
                "evaluation_task_ids": ["T1"],
            },
        ),
        (ExperimentTrigger("P", max_examples=3), {"experiment_name": "P", "max_examples": 3}),
    ],
)
def test_body_omits_empty_fields(wanted: Any, body: dict[str, Any]) -> None:
    assert wanted.as_json() == body


@pytest.mark.parametrize(("status", "kind"), DOCUMENTED)
def test_each_status_raises_its_error_once(
    client: ArizeClient, arize: responses.RequestsMock, status: int, kind: type
) -> None:
    problem = {"title": "A title", "detail": "Some detail", "request_id": "req_1"}
    arize.post(URL, status=status, json=problem, headers={"Retry-After": "0"})
    error = failure(client.trigger_run, "T25saW5l=", WANTED)
    assert type(error) is kind
    assert error.arize_message == "A title: Some detail"
    assert error.facts == {"http_status": status, "arize_request_id": "req_1", "milliseconds": error.milliseconds}
    assert len(arize.calls) == client.calls == 1


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (requests.ConnectTimeout("x"), errors.NotSent),
        (requests.exceptions.SSLError("x"), errors.NotSent),
        (requests.ReadTimeout("x"), errors.NoAnswer),
        (requests.ConnectionError("x"), errors.NoAnswer),
        (requests.exceptions.ChunkedEncodingError("x"), errors.NoAnswer),
    ],
)
def test_unsent_and_maybe_sent_requests_differ(
    client: ArizeClient, arize: responses.RequestsMock, raised: Exception, kind: type
) -> None:
    arize.post(URL, body=raised)
    error = failure(client.trigger_run, "T25saW5l=", WANTED)
    assert type(error) is kind
    assert error.arize_message == ""
    assert len(arize.calls) == 1


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}", '{"id": null}', '{"id": " "}'])
def test_success_without_a_run_is_unreadable(client: ArizeClient, arize: responses.RequestsMock, body: str) -> None:
    arize.post(URL, status=201, body=body)
    assert type(failure(client.trigger_run, "T25saW5l=", WANTED)) is errors.Unreadable


@pytest.mark.parametrize("task_id", ["", ".", "..", "a\0b", "\ud800"])
def test_id_that_is_not_a_path_segment_is_not_sent(
    client: ArizeClient, arize: responses.RequestsMock, task_id: str
) -> None:
    assert type(failure(client.trigger_run, task_id, WANTED)) is errors.BadRequest
    assert not arize.calls
