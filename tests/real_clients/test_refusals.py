"""What each client shows when a token is not good, may not act, or asks too often."""

import json
from typing import Any

import pytest

from tests.processes import wait_for
from tests.real_clients.clients import AnyClient
from tests.real_clients.panel import UNKNOWN_RUN, WINDOW, Panel
from tests.sandbox.caller import Caller

# What each client makes of an HTTP status when it reads a run.
EXCEPTIONS = {401: "UnauthorizedException", 403: "ForbiddenException", 409: "ConflictException", 429: "ApiException"}
_EXPIRE = """
from datetime import timedelta
from django.utils import timezone
from taskruns.models import Token
past = timezone.now() - timedelta(days=1)
assert Token.objects.filter(name="{name}").update(created_at=past - timedelta(days=1), expires_at=past)
"""
_REVOKE = """
from django.utils import timezone
from taskruns.models import Token
assert Token.objects.filter(name="{name}").update(revoked_at=timezone.now())
"""


def assert_status(client: AnyClient, outcome: dict[str, Any], status: int) -> None:
    error = outcome["error"]
    if client.name == "ax":
        assert error["code"] == 4
        assert f"Error: {status} " in error["text"]
    elif client.name == "js":
        assert error["text"], "no detail"
    else:
        assert (error["status"], error["kind"]) == (status, EXCEPTIONS[status])
        assert error["problem"]["status"] == status
        assert error["problem"]["detail"]


@pytest.mark.parametrize("why", ["unknown", "mistyped", "expired", "revoked"])
@pytest.mark.parametrize("name", ["sdk", "js", "airflow"])
def test_a_token_that_is_not_good_gets_401(panel: Panel, clients: dict[str, AnyClient], name: str, why: str):
    client = clients[name]
    (run,) = panel.runs("running")
    token = bad_token(panel, client.name, why)
    outcome = client.do(panel.through(token), "run", run=run)
    assert_status(client, outcome, 401)
    if client.name == "js":
        outcome = client.do(panel.through(token), "tasks", limit=5)
        assert (outcome["error"]["kind"], outcome["error"]["status"]) == ("AuthenticationError", 401)
    assert_status(client, client.do(panel.through(token), "cancel", run=run), 401)
    assert panel.stack.cancels_received(run) == []


def test_ax_says_that_the_token_is_not_good(panel: Panel, clients: dict[str, AnyClient]):
    (run,) = panel.runs("running")
    outcome = clients["ax"].do(panel.through(bad_token(panel, "ax", "expired")), "cancel", run=run)
    assert_status(clients["ax"], outcome, 401)
    assert panel.stack.cancels_received(run) == []


def bad_token(panel: Panel, client: str, why: str) -> str:
    name = f"{why} of {client}"
    if why in {"expired", "revoked"}:
        token = panel.token(name=name)
        panel.stack.manage("shell", "-c", (_EXPIRE if why == "expired" else _REVOKE).format(name=name))
        return token
    token = panel.shared_token()
    if why == "mistyped":
        return token[:-1] + ("a" if token[-1] != "a" else "b")
    return "ak-not-a-token"


def test_a_revoked_token_worked_before(panel: Panel, clients: dict[str, AnyClient]):
    """The control of the test above."""
    (run,) = panel.runs("running")
    token = panel.token(name="revoked later")
    assert "result" in clients["sdk"].do(panel.through(token), "run", run=run)
    panel.stack.manage("shell", "-c", _REVOKE.format(name="revoked later"))
    assert_status(clients["sdk"], clients["sdk"].do(panel.through(token), "run", run=run), 401)


def test_a_viewer_token_reads_but_cancels_and_starts_nothing(panel: Panel, client: AnyClient):
    (run,) = panel.runs("running")
    target = panel.through(panel.token(role="viewer"))
    assert run in json.dumps(client.do(target, "run", run=run)["result"])
    assert_status(client, client.do(target, "cancel", run=run), 403)
    assert_status(client, client.do(target, "trigger", task=panel.task()["id"], **WINDOW), 403)
    assert panel.stack.cancels_received(run) == []
    assert panel.stack.status_at_arize(run) == "running"


def test_a_token_of_another_team_finds_nothing(panel: Panel, client: AnyClient):
    """It gets what the key of its own team gets at Arize."""
    (run,) = panel.runs("running")
    south = panel.through(panel.token(team="ops-south"))
    error = client.do(south, "cancel", run=run)["error"]
    assert "does not exist or is not readable" in json.dumps(error)
    assert panel.stack.cancels_received(run) == []


def test_a_429_of_arize_is_passed_on(panel: Panel, client: AnyClient):
    """The SDK sleeps and asks three times more, because `Retry-After` came through."""
    (run,) = panel.runs("running")
    path = f"/task-runs/{run.rstrip('=')}"
    panel.stack.arize.fault(method="GET", path=path, status=429, headers={"Retry-After": "1"}, detail="Slow down.")
    asked = []
    for target in (panel.direct, panel.through(panel.shared_token())):
        before = panel.reads_of(run)
        outcome = client.do(target, "run", run=run)
        asked.append(panel.reads_of(run) - before)
        assert_status(client, outcome, 429)
        assert "Slow down." in json.dumps(outcome["error"])
    assert asked[0] == (4 if client.name in {"sdk", "ax", "airflow"} else 1)
    assert asked[1] >= asked[0]
    panel.stack.arize.call("DELETE", "/sandbox/faults")
    caller = Caller(panel.stack.url, panel.shared_token())
    wait_for(lambda: caller.get(f"/v2/task-runs/{run}").status == 200, "the end of the pause", within=60)


def test_a_token_that_asks_too_often_gets_429(panel: Panel, client: AnyClient):
    runs = panel.runs("running")
    token = panel.token()
    caller = Caller(panel.stack.url, token)
    answer = wait_for(lambda: refused(caller, runs[0]), "the limit of the token", within=60)
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["RateLimit-Remaining"] == "0"
    assert_status(client, client.do(panel.through(token), "cancel", run=runs[0]), 429)
    assert panel.stack.cancels_received(runs[0]) == []


def refused(caller: Caller, run: str) -> Any:
    """The first answer that is a 429, of 40 more requests."""
    answers = (caller.get(f"/v2/task-runs/{run}") for _ in range(40))
    return next((answer for answer in answers if answer.status == 429), None)


@pytest.mark.parametrize("name", ["sdk", "airflow"])
def test_a_token_of_a_team_without_a_key_needs_one(panel: Panel, clients: dict[str, AnyClient], name: str):
    team = f"ops-{name}"
    panel.stack.manage("create_team", f"Ops {name}", "--slug", team)
    outcome = clients[name].do(panel.through(panel.token(team=team)), "cancel", run=UNKNOWN_RUN)
    assert_status(clients[name], outcome, 409)
    assert outcome["error"]["problem"]["detail"] == "this token needs a credential"


def test_other_operations_are_not_offered(panel: Panel):
    answer = Caller(panel.stack.url, panel.shared_token()).post("/v2/tasks", {"name": "New"})
    assert answer.status == 403
    assert answer.headers.get_content_type() == "application/problem+json"
    assert "not offered by this gateway" in answer.json["detail"]
