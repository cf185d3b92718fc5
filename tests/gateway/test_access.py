"""Who reaches which operation: one table of operation x kind of token -> status. Every refusal says the same."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.utils import timezone

from taskruns.access.problems import ForProgram, problem
from taskruns.middleware import Gateway
from taskruns.models import (
    AuditEvent,
    Credential,
    Membership,
    Run,
    Task,
    Team,
    TeamRole,
    Token,
    TokenRole,
    User,
)
from taskruns.services.tokens.secret import new_secret
from tests.clients import signed_in
from tests.factories import CANARY, make_credential, make_token
from tests.gateway.scripts import OFFERED, Script, problem_of
from tests.stored import dump
from tests.wire import ENDPOINT, wire_run

READS = [("GET", path) for path in OFFERED]
ACTS = [("POST", "task-runs/{run}/cancel", 200), ("POST", "tasks/{task}/trigger", 201)]
OTHERS = [
    *(("GET", path) for path in ("", "api-keys", "audit-logs", "task-runs", "tasks/", "tasks/T1/", "tasks/T1/runs/")),
    *(
        ("GET", path)
        for path in ("tasks/T1/runs/R1", "datasets/D1/examples", "spec.yaml", "/tasks", "TASKS", "v2/tasks")
    ),
    *(("GET", path) for path in ("task-runs/R1/cancel", "tasks/T1/trigger", "users/U1/keys")),
    *(("POST", path) for path in ("tasks", "api-keys", "tasks/T1", "task-runs/R1", "task-runs/R1/cancel/", "webhooks")),
    *((method, "tasks/T1") for method in ("PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW")),
    *((method, "task-runs/R1/cancel") for method in ("PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")),
]
SECOND = "ak-second-1Xy7Qz4Mn8Lk2Jh5"
Maker = Callable[[Team, User], str]


def changed(**columns: Any) -> Maker:
    return lambda team, oli: make_token(team, maker=oli, **columns)[1]


def without_maker(team: Team, oli: User) -> str:
    secret = make_token(team, maker=oli)[1]
    Membership.objects.filter(user=oli).delete()
    return secret


def with_lower_maker(team: Team, oli: User) -> str:
    secret = make_token(team, maker=oli)[1]
    Membership.objects.filter(user=oli).update(role=TeamRole.VIEWER)
    return secret


def of_archived_team(team: Team, oli: User) -> str:
    secret = make_token(team, maker=oli)[1]
    Team.objects.filter(pk=team.pk).update(archived_at=timezone.now())
    return secret


def mistyped(team: Team, oli: User) -> str:
    secret = make_token(team, maker=oli)[1]
    return secret[:-1] + ("a" if secret[-1] != "a" else "b")


WRONG: dict[str, Maker] = {
    "none": lambda _team, _oli: "",
    "unknown": lambda _team, _oli: new_secret(),
    "mistyped": mistyped,
    "a key": lambda _team, _oli: CANARY,
    "not ASCII": lambda _team, _oli: "tr_\xe4\xff",
    "long": lambda _team, _oli: "tr_" + "x" * 5_000,
    "expired": changed(expires_at=timezone.now() - timedelta(seconds=1)),
    "revoked": changed(revoked_at=timezone.now()),
    "maker gone": without_maker,
    "maker demoted": with_lower_maker,
    "other network": changed(networks=["192.0.2.0/24"]),
    "archived team": of_archived_team,
}


@pytest.fixture
def seeing(arize: responses.RequestsMock, run: Run, task: Task) -> responses.RequestsMock:
    """Arize answers each call with the first team's key, and no other."""

    def answer(request: Any) -> Any:
        if request.headers["Authorization"] != f"Bearer {CANARY}":
            return 404, {}, '{"title": "No"}'
        return (201 if "trigger" in request.url else 200), {}, json.dumps(wire_run(run, "CANCELLED"))

    for method in (responses.GET, responses.POST):
        arize.add_callback(method, re.compile(re.escape(ENDPOINT) + "/v2/.*"), answer)
    return arize


def filled(path: str, run: Run) -> str:
    return path.format(run=run.arize_id, task=run.task.arize_id)


@pytest.mark.parametrize("role", TokenRole)
def test_token_that_works_follows_the_table(role: TokenRole, team: Team, run: Run, oli: User, seeing: Any):
    script = Script(make_token(team, maker=oli, role=role)[1])
    for method, path in READS:
        assert script.ask(method, path).status_code == 200, path
    for method, path, allowed in ACTS:
        found = script.ask(method, filled(path, run)).status_code
        assert found == (allowed if role is TokenRole.OPERATOR else 403), path
    calls = len(seeing.calls)
    for method, path in OTHERS:
        found = script.ask(method, path)
        assert found.status_code == 403, (method, path)
        if method != "HEAD":
            assert problem_of(found) == (403, "not offered by this gateway")
    assert len(seeing.calls) == calls


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_token_reaches_nothing(kind: str, team: Team, run: Run, oli: User, seeing: Any):
    script = Script(WRONG[kind](team, oli))
    bodies = set()
    for method, path in [*READS, *((method, path) for method, path, _ in ACTS), *OTHERS, ("GET", "tasks/%2e%2e")]:
        found = script.ask(method, filled(path, run))
        assert (found.status_code, found["WWW-Authenticate"]) == (401, "Bearer"), (method, path)
        assert "RateLimit-Limit" not in found
        bodies.add(found.content if method != "HEAD" else b"")
    assert len(bodies - {b""}) == 1
    assert problem_of(script.get("tasks"))[0] == 401
    assert not seeing.calls
    assert set(AuditEvent.objects.values_list("event", "outcome")) == {("token.refused", "denied")}


def test_wrong_tokens_all_get_the_same_answer(team: Team, run: Run, oli: User, other_team: Team):
    """Whatever is wrong, and whether or not the team and the run exist."""
    seen = set()
    for make in WRONG.values():
        answer = Script(make(team, oli)).get(f"task-runs/{run.arize_id}")
        seen.add((answer.status_code, answer.content, tuple(sorted(answer.headers.items()))))
        Team.objects.update(archived_at=None)
        Token.objects.all().delete()
        Membership.objects.get_or_create(team=team, user=oli, defaults={"role": TeamRole.OPERATOR})
    assert len(seen) == 1


def test_token_of_another_team_sees_only_its_own_key(run: Run, other_team: Team, otto: User, seeing: Any):
    make_credential(other_team, key=SECOND)
    script = Script(make_token(other_team, maker=otto)[1])
    for method, path in [*READS, *((method, path) for method, path, _ in ACTS)]:
        assert script.ask(method, filled(path, run)).status_code == 404, path
    run.refresh_from_db()
    assert run.status == "running"
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize(
    "sent",
    ["Basic {0}", "{0}", "Bearer", "Bearer  ", "Bearer {0} x", "Bearer {0},Bearer {0}", "Token {0}", 'Bearer "{0}"'],
)
def test_only_a_bearer_header_counts(sent: str, script: Script, seeing: Any):
    headers = {"Authorization": sent.format(script.secret)}
    assert Client().get("/v2/tasks", headers=headers).status_code == 401
    assert Client().get(f"/v2/tasks?access_token={script.secret}").status_code == 401
    assert (
        Client().get("/v2/tasks", headers={"X-Api-Key": script.secret, "Cookie": f"t={script.secret}"}).status_code
        == 401
    )
    for fine in ("Bearer {0}", "bearer {0}", "BEARER   {0} "):
        assert Client().get("/v2/tasks", headers={"Authorization": fine.format(script.secret)}).status_code == 200


def test_session_opens_nothing_here(script: Script, mona: User, run: Run, seeing: Any):
    browser = signed_in(mona)
    for method, path in (("GET", "/v2/tasks"), ("POST", f"/v2/task-runs/{run.arize_id}/cancel")):
        found = browser.generic(method, path)
        assert (found.status_code, bool(found.cookies)) == (401, False)
    assert browser.get("/teams/ops-north/runs/").status_code == 200  # control


def test_session_does_not_change_what_a_token_does(
    script: Script, token: tuple[Token, str], mona: User, run: Run, seeing: Any
):
    """The act is the token's, even from a browser that is signed in."""
    browser = signed_in(mona)
    headers = {"Authorization": f"Bearer {script.secret}"}
    assert browser.post(f"/v2/task-runs/{run.arize_id}/cancel", headers=headers).status_code == 200
    assert set(AuditEvent.objects.values_list("actor_label", flat=True)) == {token[0].label}


def test_token_opens_no_page(script: Script, run: Run):
    headers = {"Authorization": f"Bearer {script.secret}"}
    for path in ("/", "/teams/ops-north/runs/", f"/teams/ops-north/runs/{run.pk}/", "/teams/ops-north/tokens/"):
        found = Client().get(path, headers=headers)
        assert (found.status_code, found.headers.get("Location", "")[:17]) == (302, "/accounts/login/?")
    assert (
        Client().post(f"/teams/ops-north/runs/{run.pk}/cancel/", {"confirmed": "1"}, headers=headers).status_code == 302
    )
    run.refresh_from_db()
    assert run.status == "running"


def test_a_right_that_ends_counts_with_the_next_request(team: Team, run: Run, oli: User, seeing: Any):
    token, secret = make_token(team, maker=oli)
    script = Script(secret)
    assert script.get("tasks").status_code == 200
    Token.objects.filter(pk=token.pk).update(revoked_at=timezone.now())
    assert script.get("tasks").status_code == 401
    Token.objects.filter(pk=token.pk).update(revoked_at=None)
    User.objects.filter(pk=oli.pk).update(is_active=False)
    assert script.get("tasks").status_code == 401


# --- Odd paths


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("tasks/..", ""),
        ("tasks/.", ""),
        ("tasks/%2e%2e", ""),
        ("tasks//runs", ""),
        ("task-runs//cancel", ""),
        ("tasks/a%00b", ""),
        ("tasks/a%5Cb", ""),
        ("tasks/a/b", "/v2/tasks/a%2Fb"),
        ("task-runs/a/cancel", "/v2/task-runs/a%2fcancel"),
        ("tasks/x", "/v2/tasks/x%5c"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_malformed_id_is_refused(path: str, raw: str, method: str, script: Script, seeing: Any):
    script.client.defaults["RAW_URI"] = raw or f"/v2/{path}"
    assert problem_of(script.ask(method, path))[0] in {400, 403}
    assert not seeing.calls


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/tasks/", "/v2/nowhere", "/v2//", "/v2/tasks//"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_no_path_redirects(path: str, method: str, script: Script, db: None):
    headers = {"Authorization": f"Bearer {script.secret}"}
    assert Client().generic(method, path, headers=headers).status_code == 403
    assert Client().generic(method, path).status_code == 401


@pytest.mark.parametrize("path", ["/v20", "/v2x/tasks", "/V2/tasks", "/api/v2/tasks"])
def test_other_paths_are_not_the_gateways(path: str, script: Script):
    found = Client().get(path, headers={"Authorization": f"Bearer {script.secret}"})
    assert found.status_code in {301, 404}
    assert "json" not in found["Content-Type"]


def test_query_is_passed_as_it_was_sent(script: Script, seeing: Any):
    for query in ("cursor=a%2fb%3D&cursor=x&limit=1", "name=%zz&&=", "x=\xe4", "a b", "a#b"):
        found = script.client.get("/v2/tasks", QUERY_STRING=query, headers={"Authorization": f"Bearer {script.secret}"})
        assert found.status_code == 200
    assert seeing.calls[0].request.url == f"{ENDPOINT}/v2/tasks?cursor=a%2Fb%3D&cursor=x&limit=1"


# --- Problems from outside the view


def test_failures_around_the_view_are_problems(script: Script, seeing: Any, monkeypatch: pytest.MonkeyPatch):
    headers = {"Authorization": f"Bearer {script.secret}"}
    client = Client(raise_request_exception=False)
    assert problem_of(client.get("/v2/tasks", headers=headers | {"host": "evil.example"}))[0] == 400
    assert problem_of(client.post("/v2/tasks", "x" * 1_000_001, "text/plain", headers=headers))[0] == 413
    monkeypatch.setattr("taskruns.services.gateway.reads.read", lambda *_: 1 / 0)
    assert problem_of(client.get("/v2/tasks", headers=headers | {"HX-Request": "true"}))[0] == 500
    monkeypatch.undo()
    Credential.objects.all().delete()
    assert problem_of(client.get("/v2/tasks", headers=headers))[0] == 409


def test_debug_shows_no_stack_trace(script: Script, settings: Any, seeing: Any, monkeypatch: pytest.MonkeyPatch):
    settings.DEBUG = True
    monkeypatch.setattr("taskruns.services.gateway.reads.read", lambda *_: 1 / 0)
    assert problem_of(script.get("tasks"))[0] == 500


def test_plain_http_is_refused_and_not_redirected(script: Script, settings: Any, seeing: Any):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert problem_of(script.get("tasks"))[0] == 403
    assert script.get("tasks", X_Forwarded_Proto="https").status_code == 200


def test_refused_requests_change_nothing_but_logs(script: Script, run: Run, seeing: Any):
    def rest() -> Any:
        return dump(without=lambda table: table.startswith(("taskruns_audit", "taskruns_token")))

    before = rest()
    for method, path in OTHERS:
        script.ask(method, path)
    assert rest() == before


# --- Tokens where they do not belong


def test_token_in_a_url_or_body_is_refused_and_not_logged(
    script: Script, run: Run, task: Task, seeing: Any, caplog: pytest.LogCaptureFixture
):
    secret = script.secret
    for path in (f"tasks/{secret}", f"tasks?key={secret}", f"tasks?key=%74r_{secret[3:]}", secret):
        assert problem_of(script.get(path))[0] in {400, 403}
        assert Script("").get(path).status_code == 401
    assert problem_of(script.cancel(run.arize_id, X_Taskruns_Reason=f"by {secret}"))[0] == 400
    assert problem_of(script.trigger(task.arize_id, {"experiment_ids": [secret]}))[0] == 400
    escaped = json.dumps({"experiment_ids": [secret]}).replace("tr_", "\\u0074r_")
    for body in (escaped.encode(), json.dumps({"experiment_ids": [secret]}).encode("utf-16")):
        assert problem_of(script.trigger(task.arize_id, body))[0] == 400
    assert not seeing.calls
    assert "/v2/" in caplog.text
    assert secret not in caplog.text
    assert not [row for row in AuditEvent.objects.values() if secret in repr(row)]


def test_cursor_that_looks_like_a_token_passes(script: Script, seeing: Any):
    assert script.get("tasks?cursor=tr_0123456789abcdefghijABCDEFGHIJ012345").status_code == 200


def test_token_as_the_id_of_a_request_is_not_stored(script: Script, run: Run, seeing: Any, settings: Any):
    settings.TRUSTED_PROXIES = 1
    assert script.cancel(run.arize_id, X_Request_ID=script.secret).status_code == 200
    assert AuditEvent.objects.exists()
    assert not AuditEvent.objects.filter(request_id__contains=script.secret[3:])


def test_no_answer_sets_a_cookie_whatever_wrote_it():
    def with_cookie(_request: HttpRequest) -> ForProgram:
        answer = problem(404, "nothing here")
        answer.set_cookie("sessionid", "x")
        return answer

    answer = Gateway(with_cookie)(RequestFactory().get("/v2/tasks"))
    assert not answer.cookies
    assert answer.status_code == 404
