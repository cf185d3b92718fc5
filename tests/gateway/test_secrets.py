"""The key never reaches a script, the token never reaches Arize, and neither is stored or logged. And no time tells
which token exists.
"""

import hashlib
import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
import responses
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from taskruns.access import token_gate
from taskruns.models import AuditEvent, PersonTally, Run, Task, Team
from taskruns.services.tokens.refusals import Refusals
from taskruns.services.tokens.secret import new_secret
from tests.access.browsers import undone
from tests.access.odd_text import ODD
from tests.factories import CANARY, make_credential, make_run, make_task, make_token
from tests.gateway.scripts import Script
from tests.secret_search import database_dump, found
from tests.wire import ENDPOINT, wire_run

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))
ANYTHING = re.compile(re.escape(ENDPOINT) + "/.*")


def echoing(run: Run, statuses: list[int]) -> Callable[[Any], Any]:
    """An Arize that repeats whatever it was sent, its key too, in its body and headers."""

    def answer(request: Any) -> Any:
        sent = dict(request.headers) | {"url": request.url, "body": (request.body or b"").decode(errors="replace")}
        raw = wire_run(run, "CANCELLED") | {"title": str(sent), "detail": str(sent), "echo": sent}
        headers = {"Retry-After": CANARY, "X-Request-ID": CANARY, "Content-Type": f"application/json; key={CANARY}"}
        return statuses[0], headers, json.dumps(raw)

    return answer


def test_neither_secret_crosses_the_gateway(
    script: Script,
    run: Run,
    task: Task,
    arize: responses.RequestsMock,
    caplog: pytest.LogCaptureFixture,
    settings: Any,
):
    """Whatever Arize answers and wherever a script puts its token."""
    settings.TOKEN_REQUESTS_PER_MINUTE = settings.ARIZE_CALLS_PER_MINUTE = 10_000
    statuses, back = [200], []
    for method in (responses.GET, responses.POST):
        arize.add_callback(method, ANYTHING, echoing(run, statuses))
    odd = {"X-Taskruns-Reason": script.secret, "X-Other": script.secret, "User-Agent": script.secret}
    for statuses[0] in (200, 201, 302, 400, 401, 403, 404, 409, 422, 429, 500, 503):
        for headers in ({}, odd):
            paths = ("tasks", f"task-runs/{run.arize_id}", f"tasks?name={script.secret}", f"users/{script.secret}")
            back += [script.get(path, **headers) for path in paths]
            back.append(script.cancel(run.arize_id, **headers))
            Run.objects.update(status="running", rank=1)
            back.append(script.trigger(task.arize_id, "", **headers))
            back.append(script.trigger(task.arize_id, {"experiment_ids": [script.secret]}))
    sent = [f"{call.request.url} {call.request.headers} {call.request.body!r}" for call in arize.calls]
    assert len(sent) > 50
    assert not found(script.secret, sent)
    assert not found(CANARY, [f"{one.content.decode()} {one.headers}" for one in back])
    kept = [database_dump(), caplog.text, repr(script.client.cookies)]
    assert not found(CANARY, kept)
    assert not found(script.secret, kept)
    assert found(CANARY, sent)  # the controls
    assert found(script.secret, [repr(script)])
    assert hashlib.sha256(script.secret.encode()).hexdigest() in kept[0]


# --- Random requests

HEADERS = {
    "X-Taskruns-Reason": st.one_of(st.sampled_from(sorted(ODD.values())), st.text(st.characters(codec="latin-1"))),
    "User-Agent": st.text(st.characters(codec="latin-1"), max_size=300),
    "Cookie": st.text(st.characters(codec="latin-1"), max_size=50),
    "Content-Type": st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=x", "\xff", ""]),
    "Accept": st.sampled_from(["*/*", "text/html", "\xff"]),
    "HX-Request": st.just("true"),
    "X-HTTP-Method-Override": st.sampled_from(["DELETE", "POST"]),
    "X-Forwarded-For": st.sampled_from(["127.0.0.1", "\xff"]),
}
part = st.one_of(
    st.sampled_from(["tasks", "task-runs", "runs", "cancel", "trigger", "spaces", "users", "..", ".", ""]),
    st.sampled_from(sorted(ODD.values())),
    st.text(max_size=20),
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(["max_spans", "data_start_time", "data_end_time", "experiment_ids", "override_evaluations"]),
        st.none() | st.booleans() | st.integers() | st.sampled_from(sorted(ODD.values())) | st.lists(st.text()),
    ).map(lambda value: json.dumps(value).encode()),
)


@pytest.mark.slow
def test_random_requests_never_fail(script: Script, run: Run, task: Task, arize: responses.RequestsMock, settings: Any):
    """Not one 500, whatever is sent and whatever Arize answers, and always in the gateway's form."""
    settings.TOKEN_REQUESTS_PER_MINUTE = settings.ARIZE_CALLS_PER_MINUTE = 1_000_000
    replies: list[tuple[int, dict[str, str], Any]] = [(200, {}, "")]
    for method in (responses.GET, responses.POST):
        arize.add_callback(method, ANYTHING, lambda _request: replies[0])
    known = [f"task-runs/{run.arize_id}/cancel", f"tasks/{task.arize_id}/trigger", f"tasks/{task.arize_id}/runs"]
    real = json.dumps(wire_run(run, "RUNNING"))
    raw = st.one_of(st.just(real), st.binary(max_size=40), bodies)
    met: set[int] = set()

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        method=st.sampled_from(["GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"]),
        path=st.one_of(
            st.sampled_from(known),
            st.sampled_from(known),
            st.lists(part, max_size=4).map(lambda parts: "/".join(quote(it) for it in parts)),
        ),
        query=st.text(st.characters(codec="latin-1"), max_size=30),
        headers=st.fixed_dictionaries({}, optional=HEADERS),
        body=bodies,
        has_token=st.sampled_from([True, True, True, False]),
        status=st.sampled_from([200, 201, 204, 302, 400, 404, 418, 429, 500]),
        reply=raw,
    )
    @example("GET", f"task-runs/{run.arize_id}", "", {}, b"", True, 404, "")
    @example("GET", f"task-runs/{run.arize_id}", "", {}, b"", True, 200, real)
    @example("GET", f"task-runs/{run.arize_id}", "", {}, b"", False, 200, real)
    @example("GET", "runs/1", "", {}, b"", True, 200, real)
    def shoot(
        method: str, path: str, query: str, headers: Any, body: bytes, has_token: Any, status: int, reply: Any
    ) -> None:
        replies[0] = (status, {"Content-Type": "application/json"}, reply)
        client = Client(raise_request_exception=False)
        kind = headers.pop("Content-Type", "application/json")
        sent = headers | ({"Authorization": f"Bearer {script.secret}"} if has_token else {})
        with undone():
            answer = client.generic(method, f"/v2/{path}", body, kind, headers=sent, QUERY_STRING=query)
        met.add(answer.status_code)
        assert answer.status_code != 500 or status == 500, answer.content
        assert answer.status_code != 503, answer.content
        assert "no-store" in answer["Cache-Control"]
        assert not answer.cookies
        assert has_token or answer.status_code == 401
        if answer.status_code != status and method != "HEAD" and answer.status_code >= 400:
            assert json.loads(answer.content)["status"] == answer.status_code

    shoot()
    assert {200, 401, 403, 404} <= met


# --- Time


@pytest.mark.usefixtures("committed", "in_background")
@pytest.mark.slow
def test_time_of_a_refusal_does_not_tell_which_token_exists(monkeypatch: pytest.MonkeyPatch):
    """Every kind asks the database as often, and takes as much of the processor, of 1,000 answers each.

    Time of the processor, because the other time says how busy the machine is; the quickest tenth, for the same
    reason. In rounds, so that a busy moment meets all kinds alike, and in a new order each time, because a refusal is
    recorded while the next one is answered: with the thread that records them at work, as in a web process.
    """
    monkeypatch.setattr(token_gate, "refusals", waiting := Refusals())
    team = Team.objects.create(slug="ops-north", name="Ops North")
    run = make_run(make_task(team, make_credential(team)))
    _, revoked = make_token(team, name="a", revoked_at=timezone.now())
    _, expired = make_token(team, name="b", expires_at=timezone.now())
    unknown = new_secret()
    mistyped = unknown[:-1] + ("a" if unknown[-1] != "a" else "b")
    kinds = {"unknown": unknown, "mistyped": mistyped, "revoked": revoked, "expired": expired, "none": ""}
    spans: dict[str, list[float]] = {kind: [] for kind in kinds}
    asked: dict[str, int] = {}
    scripts = {kind: Script(secret) for kind, secret in kinds.items()}
    for kind in kinds:
        with CaptureQueriesContext(connection) as statements:
            scripts[kind].get(f"task-runs/{run.arize_id}")
        asked[kind] = len(statements)
    assert len(set(asked.values())) == 1, asked
    for number in range(1_000):
        path = f"task-runs/{run.arize_id}" if number % 2 else "task-runs/VGFza1J1bjo5"
        for kind in random.sample(list(kinds), len(kinds)):
            began = time.thread_time()
            status = scripts[kind].get(path).status_code
            spans[kind].append(time.thread_time() - began)
            assert status == 401
    medians = {kind: 1_000 * statistics.median(sorted(each)[:100]) for kind, each in spans.items()}
    assert max(medians.values()) - min(medians.values()) <= 1.0, medians
    waiting.write()
    assert sum(tally.attempts for tally in PersonTally.objects.all()) == 2_002
    assert AuditEvent.objects.filter(event="token.refused").count() >= 3
