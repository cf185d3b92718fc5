"""The gate in detail: foreign ids, archived teams, sign-in, form tokens, people who lose access."""

import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import responses
from django.conf import settings
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from taskruns.access.redirects import with_next
from taskruns.models import AuditEvent, Cancellation, Credential, Invitation, Membership, Run, Task, Team, Token, User
from tests.clients import ClientOf
from tests.factories import PASSWORD, make_credential, make_run, make_token
from tests.stored import events
from tests.wire import ENDPOINT, run_url, wire_run

TOKEN = re.compile(rb'(name="csrfmiddlewaretoken" value=")[^"]*|(<code>)[^<]*|(data-now=")[0-9]*')
OWN_ORIGIN = "http://localhost:8000"


@pytest.fixture
def foreign(other_team: Team, otto: User) -> dict[str, uuid.UUID]:
    """Objects of Ops South, by the name of their url parameter."""
    credential = make_credential(other_team, name="South")
    task = Task.objects.create(team=other_team, endpoint=ENDPOINT, arize_id="south", credential=credential)
    later = timezone.now() + timezone.timedelta(days=1)
    invitation = Invitation.objects.create(team=other_team, email="x@example.com", role="viewer", expires_at=later)
    return {
        "run_id": make_run(task).pk,
        "task_id": task.pk,
        "credential_id": credential.pk,
        "token_id": make_token(other_team, maker=otto)[0].pk,
        "user_id": otto.pk,
        "invitation_id": invitation.pk,
    }


@pytest.fixture
def own(
    team: Team, run: Run, credential: Credential, vera: User, arize: responses.RequestsMock
) -> dict[str, uuid.UUID]:
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    arize.get(re.compile(f"{ENDPOINT}/v2/(spaces|tasks)"), json={"pagination": {"has_more": False}})
    later = timezone.now() + timezone.timedelta(days=1)
    invitation = Invitation.objects.create(team=team, email="y@example.com", role="viewer", expires_at=later)
    return {
        "run_id": run.pk,
        "task_id": run.task_id,
        "credential_id": credential.pk,
        "token_id": make_token(team)[0].pk,
        "user_id": vera.pk,
        "invitation_id": invitation.pk,
    }


BY_ID = [
    ("run", "run_id", "get"),
    ("run-cancel", "run_id", "post"),
    ("task", "task_id", "get"),
    ("task-strip", "task_id", "get"),
    ("credential-replace", "credential_id", "get"),
    ("credential-replace", "credential_id", "post"),
    ("credential-test", "credential_id", "post"),
    ("credential-revoke", "credential_id", "get"),
    ("credential-revoke", "credential_id", "post"),
    *(("token-replace", "token_id", method) for method in ("get", "post")),
    *(("token-revoke", "token_id", method) for method in ("get", "post")),
    ("member-role", "user_id", "post"),
    ("member-remove", "user_id", "post"),
    ("invitation-revoke", "invitation_id", "post"),
]


def send(client: Client, method: str, name: str, pk: uuid.UUID) -> HttpResponse:
    answer: HttpResponse = getattr(client, method)(reverse(name, args=["ops-north", pk]))
    return answer


def without_token(answer: HttpResponse) -> bytes:
    """The page without the parts that differ in every response: form token, request reference, clock."""
    return TOKEN.sub(rb"\1\2\3", answer.content)


@pytest.mark.parametrize(("name", "kind", "method"), BY_ID)
def test_foreign_id_gets_the_404_of_a_missing_one(
    name: str,
    kind: str,
    method: str,
    foreign: dict[str, uuid.UUID],
    own: dict[str, uuid.UUID],
    mona: User,
    client_of: ClientOf,
):
    client = client_of(mona)
    theirs = send(client, method, name, foreign[kind])
    assert events(outcome="denied") == [("access.denied", "denied")]
    denial = AuditEvent.objects.get(outcome="denied")
    assert (denial.chain, denial.actor_label, denial.target_id) == ("site", "mona@example.com", name)
    missing = send(client, method, name, uuid.uuid4())
    assert theirs.status_code == missing.status_code == 404
    assert without_token(theirs) == without_token(missing)
    assert AuditEvent.objects.count() == 1
    assert send(client, method, name, own[kind]).status_code in {200, 302, 422}


def test_foreign_id_changes_nothing(foreign: dict[str, uuid.UUID], mona: User, client_of: ClientOf):
    client = client_of(mona)
    for name, kind, method in BY_ID:
        send(client, method, name, foreign[kind])
    assert not Cancellation.objects.exists()
    assert Credential.objects.get(pk=foreign["credential_id"]).revoked_at is None
    assert Membership.objects.filter(user_id=foreign["user_id"]).exists()
    assert Invitation.objects.get(pk=foreign["invitation_id"]).is_open


def test_foreign_team_looks_like_a_missing_one(team: Team, otto: User, mona: User, client_of: ClientOf):
    theirs = client_of(otto).get("/teams/ops-north/runs/")
    missing = client_of(otto).get("/teams/ops-nowhere/runs/")
    assert theirs.status_code == missing.status_code == 404
    assert without_token(theirs) == without_token(missing)
    assert b"Ops North" not in theirs.content
    assert b"Ops North" in client_of(mona).get("/teams/ops-north/runs/").content


@pytest.mark.parametrize("page", ["runs/", "credentials/", "audit/", "settings/"])
def test_foreign_and_missing_teams_cost_the_same_queries(page: str, team: Team, otto: User, client_of: ClientOf):
    """The response time must not reveal that a team exists: same database queries, and an audit row for both."""
    client = client_of(otto)
    client.get("/teams/ops-never/runs/")  # the first row of a chain takes one more query

    def queries_of(slug: str) -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            assert client.get(f"/teams/{slug}/{page}").status_code == 404
        # Savepoint names differ.
        return [query["sql"][:40].partition("SAVEPOINT")[0] for query in queries]

    assert queries_of("ops-north") == queries_of("ops-never")
    assert AuditEvent.objects.filter(event="access.denied", actor_label=otto.email).count() == 3


def test_unknown_team_is_no_denial_for_an_auditor(ada: User, client_of: ClientOf):
    assert client_of(ada).get("/teams/ops-never/runs/").status_code == 404
    assert not AuditEvent.objects.exists()


def test_arize_id_of_another_team_is_not_found(
    team: Team, foreign: dict[str, uuid.UUID], mona: User, otto: User, client_of: ClientOf
):
    arize_id = Run.objects.get(pk=foreign["run_id"]).arize_id
    assert client_of(mona).get(reverse("run-by-arize-id", args=["ops-north", arize_id])).status_code == 404
    assert client_of(otto).get(reverse("run-by-arize-id", args=["ops-south", arize_id])).status_code == 302


ARCHIVED = {
    "board": {"vera": 404, "mona": 404, "otto": 404, "ada": 200, "adam": 200},
    "audit": {"vera": 404, "mona": 404, "otto": 404, "ada": 200, "adam": 200},
    "credentials": {"vera": 404, "mona": 404, "otto": 404, "ada": 200, "adam": 200},
    "team-settings": {"vera": 404, "mona": 404, "otto": 404, "ada": 403, "adam": 403},
}


@pytest.mark.parametrize("name", ARCHIVED)
def test_archived_team_is_readable_only_with_a_site_role(
    name: str, team: Team, cast: dict[str, User | None], client_of: ClientOf
):
    assert client_of(cast["mona"]).get(reverse(name, args=[team.slug])).status_code == 200
    Team.objects.update(archived_at=timezone.now())
    found = {who: client_of(cast[who]).get(reverse(name, args=[team.slug])).status_code for who in ARCHIVED[name]}
    assert found == ARCHIVED[name]


def test_anonymous_get_redirects_to_sign_in_and_back(team: Team):
    target = "/teams/ops-north/runs/?status=failed&q=a%20b"
    answer = Client().get(target)
    where = urlsplit(answer["Location"])
    assert (answer.status_code, where.netloc, where.path) == (302, "", "/accounts/login/")
    assert parse_qs(where.query) == {"next": [target]}


BOARD = "/teams/ops-north/runs/?status=running"


def target_of(where: str) -> tuple[str, dict[str, list[str]]]:
    parts = urlsplit(where)
    return parts.path, parse_qs(parts.query)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("run-cancel", "run_id", "Nothing was sent to Arize. Sign in, then click Cancel again."),
        ("stop", "", "Nothing was changed, and your input was not saved. Sign in, then try again."),
        ("batches", "", "Nothing was changed, and your input was not saved. Sign in, then try again."),
        ("credential-new", "", "Nothing was changed, and your input was not saved. Sign in, then try again."),
    ],
)
@pytest.mark.parametrize("by_htmx", [True, False])
def test_sign_in_page_explains_a_lost_post(
    name: str, kind: str, says: str, *, by_htmx: bool, own: dict[str, uuid.UUID], mona: User, arize: Any
):
    htmx = {"HX-Request": "true", "HX-Current-URL": f"{OWN_ORIGIN}{BOARD}"}
    headers = htmx if by_htmx else {"Referer": f"{OWN_ORIGIN}{BOARD}"}
    client = Client(headers={"host": "localhost:8000"})
    answer = client.post(path_of(name, kind, own), {"reason": "x"}, headers=headers)
    where = answer["HX-Redirect"] if by_htmx else answer["Location"]
    assert target_of(where)[1]["next"] == [BOARD]
    assert not arize.calls
    page = client.get(where).content.decode()
    assert "You were signed out." in page
    assert says in page
    signed_in = client.post("/accounts/login/", {"login": mona.email, "password": PASSWORD, "next": BOARD})
    assert signed_in["Location"] == BOARD


def test_sign_in_page_shows_no_notice_after_a_plain_get(team: Team):
    page = Client().get(Client().get(BOARD)["Location"]).content.decode()
    assert "You were signed out" not in page
    assert "You were signed out" not in Client().get("/accounts/login/?undone=nonsense").content.decode()


def test_foreign_referer_is_no_redirect_target(team: Team, run: Run):
    cancel = reverse("run-cancel", args=[team.slug, run.pk])
    for referer in ("https://evil.example/x", "", "http://localhost:8000//evil.example/"):
        answer = Client(headers={"host": "localhost:8000"}).post(cancel, headers={"Referer": referer})
        assert target_of(answer["Location"]) == ("/accounts/login/", {"undone": ["cancel"]})


@pytest.mark.parametrize(
    "target", ["//evil.example/", "/\\evil.example/", "///evil.example", "https://evil.example/", "evil.example", ""]
)
def test_only_a_path_of_this_host_becomes_next(target: str):
    assert with_next("/accounts/login/", target) == "/accounts/login/"
    assert with_next("/accounts/login/", "/runs/?q=//x") == "/accounts/login/?next=%2Fruns%2F%3Fq%3D%2F%2Fx", (
        "the control"
    )


def test_htmx_next_stays_inside_the_panel(team: Team):
    for path in ("//evil.example/", "/\\evil.example/", "///evil.example"):
        answer = Client().get("/teams/ops-north/runs/", headers={"HX-Request": "true", "HX-Current-URL": path})
        assert "evil" not in answer["HX-Redirect"]


def test_htmx_gets_a_redirect_and_no_sign_in_form(team: Team):
    page = f"{OWN_ORIGIN}/teams/ops-north/runs/?status=failed"
    client = Client(headers={"HX-Request": "true", "HX-Current-URL": page, "host": "localhost:8000"})
    answer = client.get("/teams/ops-north/runs/table/?status=failed")
    assert (answer.status_code, answer.content) == (401, b"")
    assert target_of(answer["HX-Redirect"])[1]["next"] == ["/teams/ops-north/runs/?status=failed"]
    elsewhere = client.get("/teams/ops-north/runs/table/", headers={"HX-Current-URL": "https://evil.example/x"})
    assert target_of(elsewhere["HX-Redirect"]) == ("/accounts/login/", {"undone": ["page"]})


def test_disabled_person_is_signed_out_at_the_next_request(team: Team, oli: User, client_of: ClientOf):
    client = client_of(oli)
    assert client.get("/teams/ops-north/runs/").status_code == 200
    User.objects.filter(pk=oli.pk).update(is_active=False)
    assert client.get("/teams/ops-north/runs/").status_code == 302
    assert client.get("/teams/ops-north/runs/table/", headers={"HX-Request": "true"}).status_code == 401


def test_removed_member_is_an_outsider_at_the_next_request(team: Team, oli: User, client_of: ClientOf):
    client = client_of(oli)
    assert client.get("/teams/ops-north/runs/").status_code == 200
    Membership.objects.filter(user=oli).delete()
    assert client.get("/teams/ops-north/runs/").status_code == 404


def test_unrecorded_denial_is_still_a_denial(
    team: Team, vera: User, otto: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        from django.db import DatabaseError

        raise DatabaseError

    monkeypatch.setattr("taskruns.services.audit.denials.record", refuse)
    assert client_of(vera).get("/teams/ops-north/credentials/").status_code == 403
    assert client_of(otto).get("/teams/ops-north/runs/").status_code == 404
    assert not AuditEvent.objects.exists()


POSTS = [(name, kind) for name, kind, method in BY_ID if method == "post"]
POSTS += [("credential-new", ""), ("member-add", ""), ("team-settings", ""), ("team-archive", ""), ("team-new", "")]


@pytest.fixture
def strict(team: Team, mona: User) -> Iterator[Client]:
    """Mona's browser, with Django's CSRF check, which the test client skips by default."""
    User.objects.filter(pk=mona.pk).update(site_role="admin")
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost:8000"})
    client.force_login(mona, backend=settings.AUTHENTICATION_BACKENDS[0])
    return client


def path_of(name: str, kind: str, own: dict[str, uuid.UUID]) -> str:
    slug = [] if name == "team-new" else ["ops-north"]
    return reverse(name, args=slug + ([own[kind]] if kind else []))


@pytest.mark.parametrize(("name", "kind"), POSTS)
def test_forged_post_does_nothing(
    name: str, kind: str, own: dict[str, uuid.UUID], strict: Client, arize: responses.RequestsMock
):
    url = path_of(name, kind, own)
    page = strict.get("/runs/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)', page.content.decode()).group(1)
    foreign_origin = {"Origin": "https://evil.example", "X-CSRFToken": token}
    foreign_referer = {"Referer": "https://evil.example/", "X-CSRFToken": token, "Origin": "null"}
    for headers in ({}, {"X-CSRFToken": "x" * 64}, foreign_origin, foreign_referer):
        answer = strict.post(url, {"confirmed": "1"}, headers=headers)
        assert answer.status_code == 403
        assert b"Nothing was changed" in answer.content
    assert not AuditEvent.objects.exclude(outcome="denied").exists()
    assert not arize.calls
    good = strict.post(url, {"confirmed": "1"}, headers={"Origin": OWN_ORIGIN, "X-CSRFToken": token})
    assert good.status_code in {200, 302, 422}


def test_a_forged_post_costs_the_same_for_a_missing_team(team: Team, other_team: Team, otto: User):
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost:8000"})
    client.force_login(otto, backend=settings.AUTHENTICATION_BACKENDS[0])
    client.post("/teams/ops-north/members/add/", headers={"X-CSRFToken": "x" * 64})  # warm-up
    Team.objects.create(slug="ops-old", name="Ops Old", archived_at=timezone.now())
    costs = []
    for slug in ("ops-north", "ops-old", "no-such-team"):
        with CaptureQueriesContext(connection) as queries:
            assert client.post(f"/teams/{slug}/members/add/", headers={"X-CSRFToken": "x" * 64}).status_code == 403
        costs.append(len(queries))
    assert costs == [costs[0]] * 3


CHANGING = ["credential-test", "member-role", "member-remove", "invitation-revoke", "member-add"]


@pytest.mark.parametrize("name", CHANGING)
def test_get_of_a_post_url_gets_405(name: str, own: dict[str, uuid.UUID], strict: Client):
    kinds = dict(POSTS)
    assert strict.get(path_of(name, kinds[name], own)).status_code == 405
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("name", ["credential-revoke", "team-archive", "credential-replace", "token-revoke"])
def test_get_of_a_confirmation_page_changes_nothing(name: str, own: dict[str, uuid.UUID], strict: Client):
    before = Credential.objects.get(pk=own["credential_id"]).ciphertext
    assert strict.get(path_of(name, dict(POSTS)[name], own)).status_code == 200
    assert Credential.objects.get(pk=own["credential_id"]).ciphertext == before
    assert Token.objects.get().revoked_at is None
    assert not AuditEvent.objects.exists()
