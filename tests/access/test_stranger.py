"""An attacker without an account, and one with a viewer's: forged headers, replayed forms, method and path tricks,
hundreds of passwords.
"""

import re
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest
import responses
import time_machine
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from taskruns.models import AuditEvent, Task, Team, User
from tests.access.browsers import undone
from tests.actions import ACTIONS, EVALUATION, HttpAction
from tests.clients import ClientOf
from tests.factories import PASSWORD, make_credential, make_run
from tests.stage import Stage
from tests.stored import dump

pytestmark = pytest.mark.slow

OWN = "http://localhost:8000"
LOG_AND_SESSIONS = ("taskruns_personsession", "taskruns_audit", "taskruns_anonymoustally", "taskruns_persontally")


@pytest.fixture
def stage(file_stage: Stage, db: None, arize: responses.RequestsMock) -> Stage:
    return file_stage.for_test(arize)


def quiet_dump() -> Any:
    return dump(without=lambda table: table.startswith(LOG_AND_SESSIONS))


def strict(stage: Stage, who: str) -> tuple[Client, str]:
    """A browser with CSRF checks, and a valid token for it."""
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost:8000"})
    if who:
        client.force_login(stage.people[who], backend="allauth.account.auth_backends.AuthenticationBackend")
    client.get("/accounts/logout/" if who else "/accounts/login/")
    return client, client.cookies["csrftoken"].value


# --- Forged forms

POSTS = {name: act for name, act in ACTIONS.items() if act.method == "post"}


def form_of(act: HttpAction, stage: Stage) -> dict[str, object]:
    """A valid form, prepared in another browser, so that this one has no sign-in in progress."""
    return act.filled(stage, stage.client(act.who))


@pytest.mark.parametrize("name", POSTS)
def test_form_without_a_token_does_nothing(name: str, stage: Stage):
    """Each action, by a person who may do it. The control runs the same actions in audit/test_coverage.py."""
    act = POSTS[name]
    act.prepare(stage)
    filled = form_of(act, stage)
    client, token = strict(stage, act.who)
    before = quiet_dump()
    others = Client(enforce_csrf_checks=True)
    others.get("/accounts/login/")
    forged: list[dict[str, str]] = [
        {},
        {"csrfmiddlewaretoken": "x" * 64},
        {"csrfmiddlewaretoken": ""},
        {"csrfmiddlewaretoken": others.cookies["csrftoken"].value},
    ]
    path = act.path(stage)
    for fields in forged:
        assert client.post(path, {**filled, **fields}).status_code == 403
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8000.evil.example"},
        {"Origin": "http://localhost:8001"},
        {"Origin": "https://localhost:8000"},
    ):
        good = {**filled, "csrfmiddlewaretoken": token}
        assert client.post(path, good, headers=headers).status_code == 403
    assert quiet_dump() == before
    assert stage.posts_to_arize == 0


def test_form_with_its_token_works(stage: Stage):
    """The control of the test above."""
    client, token = strict(stage, "oli")
    act = ACTIONS["cancel a run"]
    form = {"csrfmiddlewaretoken": token, "confirmed": "1"}
    assert client.post(act.path(stage), form, headers={"Origin": OWN}).status_code == 302
    assert stage.posts_to_arize == 1


def test_form_sent_twice_acts_once(stage: Stage):
    client, token = strict(stage, "oli")
    cancel = ACTIONS["cancel a run"].path(stage)
    start = ACTIONS["start a run"].path(stage)
    for _ in range(5):
        client.post(cancel, {"csrfmiddlewaretoken": token, "confirmed": "1"})
        client.post(start, {**EVALUATION, "csrfmiddlewaretoken": token})
    assert stage.posts_to_arize == 2, "one cancel, one start"


def test_form_is_refused_after_sign_out(stage: Stage):
    client, token = strict(stage, "oli")
    session = client.cookies["sessionid"].value
    form = {"csrfmiddlewaretoken": token, "confirmed": "1"}
    assert client.post("/accounts/logout/", form).status_code == 302
    replayed = Client(enforce_csrf_checks=True, headers={"host": "localhost:8000"})
    replayed.cookies["sessionid"], replayed.cookies["csrftoken"] = session, token
    answer = replayed.post(ACTIONS["cancel a run"].path(stage), form)
    assert (answer.status_code, urlsplit(answer["Location"]).path) == (302, "/accounts/login/")
    assert stage.posts_to_arize == 0


def test_used_invitation_is_refused(stage: Stage):
    act = ACTIONS["accept an invitation"]
    assert act.do(stage, Client()).status_code == 302
    people = User.objects.count()
    again = act.do(stage, Client())
    assert again.status_code in {200, 404, 410, 422}
    assert User.objects.count() == people


# --- Methods


OVERRIDES: list[tuple[dict[str, str], dict[str, str]]] = [
    ({name: "POST"}, {})
    for name in (
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-Method",
        "X-Rewrite-Method",
    )
] + [({}, {"_method": "POST"}), ({}, {"_method": "DELETE"}), ({"X-Original-URL": "/accounts/logout/"}, {})]


@pytest.mark.parametrize("name", POSTS)
def test_only_a_post_changes_anything(name: str, stage: Stage):
    act = POSTS[name]
    act.prepare(stage)
    client = stage.client(act.who)
    client.get("/")
    filled = form_of(act, stage)
    before = quiet_dump()
    with undone():
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PO ST", "POSTS"):
            client.generic(method, act.path(stage), QUERY_STRING="&".join(f"{k}={v}" for k, v in filled.items()))
        for headers, query in OVERRIDES:
            client.get(act.path(stage), {**filled, **query}, headers=headers)
        assert quiet_dump() == before
    assert stage.posts_to_arize == 0
    assert client.get("/runs/").status_code == (200 if act.who else 302), "no session ended or began"


# --- Headers


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "evil.example"},
        {"X-Host": "evil.example", "X-Forwarded-Server": "evil.example"},
        {"Forwarded": "host=evil.example;proto=https;for=1.2.3.4"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Port": "6666", "X-Forwarded-Prefix": "/evil.example"},
        {"X-Original-URL": "/teams/ops-north/runs/", "X-Rewrite-URL": "/teams/ops-north/runs/"},
        {"Script-Name": "/evil.example"},
        {"Referer": "https://evil.example/", "Origin": "https://evil.example"},
        {
            "Remote-User": "mona@example.com",
            "X-Remote-User": "mona@example.com",
            "X-Forwarded-User": "mona@example.com",
        },
        {"Authorization": "Basic bW9uYUBleGFtcGxlLmNvbTpjb3JyZWN0IGhvcnNlIGJhdHRlcnk="},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "True-Client-IP": "127.0.0.1"},
    ],
    ids=",".join,
)
@pytest.mark.parametrize("proxies", [0, 1])
def test_headers_grant_no_access_and_redirect_nowhere(
    headers: dict[str, str], proxies: int, stage: Stage, settings: Any
):
    settings.TRUSTED_PROXIES = proxies
    for path in ("/teams/ops-north/runs/", "/audit/", "/accounts/login/", "/nowhere", f"/invitations/{stage.token}/"):
        answer = Client().get(path, headers=headers)
        assert answer.status_code in {200, 301, 302, 404}
        if "ops-north" in path or "audit" in path:
            assert answer.status_code == 302
        assert urlsplit(answer.get("Location", "")).netloc == ""
        assert "evil.example" not in answer.getvalue().decode().replace('value="https://evil.example"', "")
    with undone():
        link = stage.client("mona").post(
            "/teams/ops-north/members/add/", {"email": "n@example.com", "role": "viewer"}, headers=headers, follow=True
        )
    assert "http://localhost:8000/invitations/" in link.content.decode()
    assert "evil.example" not in link.content.decode()


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "localhost:8000@evil.example", "localhost,evil.example"),
        *("localhost evil.example", "[::1", "localhost:80:80", "*", ".localhost", "%6cocalhost", "localhost/../evil"),
    ],
)
def test_forged_host_gets_400(host: str, stage: Stage):
    answer = stage.client("mona").get("/teams/ops-north/runs/", headers={"host": host})
    assert answer.status_code == 400
    assert "Ops North" not in answer.content.decode()
    assert "evil" not in answer.content.decode()


# --- Paths

TRICKS = [
    *(
        "/.env",
        "/.git/config",
        "/admin/",
        "/var/demo/taskruns.sqlite3",
        "/config/settings.py",
        "/server-status",
        "/metrics",
    ),
    *("/teams/ops-south/../ops-north/runs/", "/teams/ops-south/%2e%2e/ops-north/runs/", "/teams/ops-north%2fruns/"),
    *("/teams/ops-north/runs/..;/", "/teams/ops-north;/runs/", "//teams/ops-north/runs/", "/TEAMS/ops-north/runs/"),
    *("/teams/ops-north/runs%00/", "/teams/ops-north/runs/\x7f", "/teams/./ops-north/runs/", "/teams/ops-north//runs/"),
    *("/static/../config/settings.py", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%5c..%5cetc/passwd", "/static/"),
    *(
        "/teams/ops-north/runs/by-arize-id/../../credentials/",
        "/teams/ops-north/audit/export.json",
        "/teams/ops-north/",
    ),
]


@pytest.mark.parametrize("path", TRICKS)
def test_path_tricks_grant_no_access(path: str, stage: Stage, otto: User, client_of: ClientOf):
    for client in (Client(), client_of(otto)):
        answer = client.get(path)
        assert answer.status_code in {302, 400, 404}
        assert "Ops North" not in answer.getvalue().decode()
        if answer.status_code == 302:
            assert urlsplit(answer["Location"]).path == "/accounts/login/"


WAYS_OUT = ("//evil.example", "//evil.example/teams", "/\\evil.example", "///evil.example/x", "/%2fevil.example")


@pytest.mark.parametrize("path", WAYS_OUT)
def test_paths_never_redirect_outside(path: str, stage: Stage):
    for client in (Client(), stage.client("mona")):
        answer = client.get(path)
        where = urlsplit(answer.get("Location", ""))
        assert (answer.status_code in {301, 302, 400, 404}, where.scheme, where.netloc) == (True, "", "")


def test_viewer_can_change_nothing(stage: Stage):
    """Every action of the other roles, tried by a viewer of the team."""
    tried = 0
    for act in ACTIONS.values():
        if act.is_everyones or act.url == "saved-views" or (act.method == "get" and act.who == "oli"):
            continue
        with undone():
            act.prepare(stage)
            filled, client = form_of(act, stage), stage.client("vera")
            before = quiet_dump()
            answer = act.do(stage, client, filled)
            unchanged = quiet_dump() == before
        if act.url in {"saved-view", "saved-view-default", "saved-view-delete", "board-export"}:
            continue  # every member has views of their own; see their tests
        is_sent_off = answer.status_code == 302 and answer["Location"].startswith("/accounts/login/")
        assert answer.status_code in {403, 404} or is_sent_off, act.url
        assert unchanged, act.url
        tried += 1
    assert tried > 12
    assert stage.posts_to_arize == 0


# --- Hundreds of passwords


OWN_TO_EACH = re.compile(
    r'name="csrfmiddlewaretoken" value="[^"]*"|data-now="[0-9]*"|value="[^"]*@example.com"|[0-9a-f]{8}-[0-9a-f-]{27}'
)


def stable_text(answer: HttpResponse) -> str:
    """The page without the parts that differ in every response."""
    return OWN_TO_EACH.sub("", answer.content.decode())


def test_many_guesses_find_no_password_or_account(stage: Stage):
    """The right password is among the guesses. Ten attackers at ten addresses try one known and one unknown account."""
    started, mona = timezone.now(), stage.people["mona"]
    answers: dict[str, list[str]] = {mona.email: [], "nobody@example.com": []}
    attackers = [Client(REMOTE_ADDR=f"192.0.2.{number}") for number in range(10)]
    with time_machine.travel(started, tick=False):
        for number in range(150):
            for email, pages in answers.items():
                client = attackers[number % 10]
                password = PASSWORD if number == 120 else f"guess number {number}"
                answer = client.post("/accounts/login/", {"login": email, "password": password})
                assert answer.status_code in {200, 429}
                pages.append(stable_text(answer))
    assert answers[mona.email] == answers["nobody@example.com"]
    assert len(set(answers[mona.email])) <= 3
    assert "too many" in answers[mona.email][-1].lower()
    assert not any("sessionid" in client.cookies for client in attackers)
    rows = AuditEvent.objects.filter(event="auth.sign_in")
    assert not rows.filter(outcome="done").exists()
    assert 2 <= rows.count() <= 60, "recorded, but not each time"
    with time_machine.travel(started + timezone.timedelta(hours=2), tick=False):
        late = Client(REMOTE_ADDR="192.0.2.200")
        assert late.post("/accounts/login/", {"login": mona.email, "password": PASSWORD}).status_code == 302


def test_foreign_ids_in_filters_and_exports_find_nothing(
    stage: Stage, other_team: Team, otto: User, client_of: ClientOf
):
    """Another team's ids outside the path: each is refused or finds nothing."""
    key = make_credential(other_team, name="Zweckverband key", spaces=[{"id": "S-south", "name": "Zweckverband"}])
    named = {"arize_id": "T-south", "name": "Zweckverband task", "space_id": "S-south"}
    task = Task.objects.create(team=other_team, endpoint=key.endpoint, credential=key, **named)
    for number in range(52):
        make_run(task, arize_id=f"R-south-{number}")
    board = client_of(otto).get("/teams/ops-south/runs/").content.decode()
    assert "Zweckverband task" in board
    cursor = re.search(r'cursor=([^"&]+)"', board)
    assert cursor
    client = stage.client("oli")
    filters = {"task": "T-south", "credential": str(key.pk), "space": "S-south", "cursor": cursor[1]}
    searches = [("q", "R-south-1"), ("q", "verband task")]  # the page repeats the words
    for name, value in [*filters.items(), *searches]:
        for page in ("runs/", "runs/table/", "runs/export/", "runs/export.csv"):
            with undone():
                answer = client.get(f"/teams/ops-north/{page}", {name: value})
                text = answer.getvalue().decode()
            assert answer.status_code in {200, 400}
            assert "Zweckverband" not in text
            assert "R-south-0" not in text
    for name, value in {"before": "1", "run": "R-south-1", "key": str(key.pk), "q": "R-south"}.items():
        with undone():
            answer = stage.client("mona").get("/teams/ops-north/audit/", {name: value})
        assert "Zweckverband" not in answer.content.decode()


def test_ids_cannot_be_guessed(stage: Stage):
    """Ids in urls are random, and the answer to a guess reveals nothing."""
    client, run = stage.client("vera"), stage.run
    missing = {stable_text(client.get(f"/teams/ops-north/runs/{uuid.uuid4()}/")) for _ in range(20)}
    assert len(missing) == 1
    assert client.get(f"/teams/ops-north/runs/{run.pk}/").status_code == 200
    assert run.pk.version == 4
