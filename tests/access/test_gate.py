"""The gate from near: foreign ids, archived teams, sign-in, tokens against forged posts, people who are put out."""

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

from taskruns.models import AuditEvent, Cancellation, Credential, Invitation, Membership, Run, Task, Team, User
from tests.clients import ClientOf
from tests.factories import PASSWORD, make_credential, make_run
from tests.stored import events
from tests.wire import ENDPOINT, run_url, wire_run

TOKEN = re.compile(rb'(name="csrfmiddlewaretoken" value=")[^"]*|(<code>)[^<]*|(data-now=")[0-9]*')
OWN_ORIGIN = "http://localhost:8000"


@pytest.fixture
def foreign(other_team: Team, otto: User) -> dict[str, uuid.UUID]:
    """What Ops South has, by the name it goes by in a path."""
    credential = make_credential(other_team, name="South")
    task = Task.objects.create(team=other_team, endpoint=ENDPOINT, arize_id="south", credential=credential)
    later = timezone.now() + timezone.timedelta(days=1)
    invitation = Invitation.objects.create(team=other_team, email="x@example.com", role="viewer", expires_at=later)
    return {
        "run_id": make_run(task).pk,
        "task_id": task.pk,
        "credential_id": credential.pk,
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
    ("member-role", "user_id", "post"),
    ("member-remove", "user_id", "post"),
    ("invitation-revoke", "invitation_id", "post"),
]


def send(client: Client, method: str, name: str, pk: uuid.UUID) -> HttpResponse:
    answer: HttpResponse = getattr(client, method)(reverse(name, args=["ops-north", pk]))
    return answer


def without_token(answer: HttpResponse) -> bytes:
    """The page without what differs in every answer: the form token, the reference of the request, the clock."""
    return TOKEN.sub(rb"\1\2\3", answer.content)


@pytest.mark.parametrize(("name", "kind", "method"), BY_ID)
def test_another_teams_id_is_the_same_404_as_a_missing_one_and_is_recorded(
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


def test_a_foreign_id_changes_nothing(foreign: dict[str, uuid.UUID], mona: User, client_of: ClientOf):
    client = client_of(mona)
    for name, kind, method in BY_ID:
        send(client, method, name, foreign[kind])
    assert not Cancellation.objects.exists()
    assert Credential.objects.get(pk=foreign["credential_id"]).revoked_at is None
    assert Membership.objects.filter(user_id=foreign["user_id"]).exists()
    assert Invitation.objects.get(pk=foreign["invitation_id"]).is_open


def test_a_foreign_team_looks_like_one_that_does_not_exist(team: Team, otto: User, mona: User, client_of: ClientOf):
    theirs = client_of(otto).get("/teams/ops-north/runs/")
    missing = client_of(otto).get("/teams/ops-nowhere/runs/")
    assert theirs.status_code == missing.status_code == 404
    assert without_token(theirs) == without_token(missing)
    assert b"Ops North" not in theirs.content
    assert b"Ops North" in client_of(mona).get("/teams/ops-north/runs/").content


@pytest.mark.parametrize("page", ["runs/", "credentials/", "audit/", "settings/"])
def test_a_foreign_team_is_as_much_work_as_one_that_does_not_exist(
    page: str, team: Team, otto: User, client_of: ClientOf
):
    """What takes longer tells that there is something: the same questions to the database, and a row in the log."""
    client = client_of(otto)
    client.get("/teams/ops-never/runs/")  # the first row of a chain asks one question more

    def asked(slug: str) -> list[str]:
        with CaptureQueriesContext(connection) as questions:
            assert client.get(f"/teams/{slug}/{page}").status_code == 404
        # Savepoints have numbers of their own.
        return [question["sql"][:40].partition("SAVEPOINT")[0] for question in questions]

    assert asked("ops-north") == asked("ops-never")
    assert AuditEvent.objects.filter(event="access.denied", actor_label=otto.email).count() == 3


def test_who_sees_every_team_is_not_told_off_for_a_wrong_name(ada: User, client_of: ClientOf):
    assert client_of(ada).get("/teams/ops-never/runs/").status_code == 404
    assert not AuditEvent.objects.exists()


def test_another_teams_runs_are_not_found_by_their_arize_id(
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
def test_an_archived_team_is_gone_for_its_members_and_its_log_stays_readable(
    name: str, team: Team, cast: dict[str, User | None], client_of: ClientOf
):
    assert client_of(cast["mona"]).get(reverse(name, args=[team.slug])).status_code == 200
    Team.objects.update(archived_at=timezone.now())
    found = {who: client_of(cast[who]).get(reverse(name, args=[team.slug])).status_code for who in ARCHIVED[name]}
    assert found == ARCHIVED[name]


def test_who_is_not_signed_in_is_led_to_the_login_page_and_back(team: Team):
    target = "/teams/ops-north/runs/?status=failed&q=a%20b"
    answer = Client().get(target)
    where = urlsplit(answer["Location"])
    assert (answer.status_code, where.netloc, where.path) == (302, "", "/accounts/login/")
    assert parse_qs(where.query) == {"next": [target]}


BOARD = "/teams/ops-north/runs/?status=running"


def way_of(where: str) -> tuple[str, dict[str, list[str]]]:
    parts = urlsplit(where)
    return parts.path, parse_qs(parts.query)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("run-cancel", "run_id", "Nothing was sent; press Cancel again after you sign in."),
        ("stop", "", "Nothing was done; do it again after you sign in."),
        ("batches", "", "Nothing was done; do it again after you sign in."),
        ("credential-new", "", "Nothing was done; do it again after you sign in."),
    ],
)
@pytest.mark.parametrize("by_htmx", [True, False])
def test_a_post_of_a_session_that_ended_is_not_repeated_and_the_sign_in_page_says_so(
    name: str, kind: str, says: str, *, by_htmx: bool, own: dict[str, uuid.UUID], mona: User, arize: Any
):
    htmx = {"HX-Request": "true", "HX-Current-URL": f"{OWN_ORIGIN}{BOARD}"}
    headers = htmx if by_htmx else {"Referer": f"{OWN_ORIGIN}{BOARD}"}
    client = Client(headers={"host": "localhost:8000"})
    answer = client.post(path_of(name, kind, own), {"reason": "x"}, headers=headers)
    where = answer["HX-Redirect"] if by_htmx else answer["Location"]
    assert way_of(where)[1]["next"] == [BOARD]
    assert not arize.calls
    page = client.get(where).content.decode()
    assert "You were signed out." in page
    assert says in page
    signed_in = client.post("/accounts/login/", {"login": mona.email, "password": PASSWORD, "next": BOARD})
    assert signed_in["Location"] == BOARD


def test_a_page_that_was_merely_opened_says_nothing_of_what_was_not_done(team: Team):
    page = Client().get(Client().get(BOARD)["Location"]).content.decode()
    assert "You were signed out" not in page
    assert "You were signed out" not in Client().get("/accounts/login/?undone=nonsense").content.decode()


def test_a_post_that_came_from_elsewhere_leads_nowhere_after_sign_in(team: Team, run: Run):
    cancel = reverse("run-cancel", args=[team.slug, run.pk])
    for referer in ("https://evil.example/x", "", "http://localhost:8000//evil.example/"):
        answer = Client(headers={"host": "localhost:8000"}).post(cancel, headers={"Referer": referer})
        assert way_of(answer["Location"]) == ("/accounts/login/", {"undone": ["cancel"]})


def test_nobody_is_led_away_from_the_panel_after_sign_in(team: Team):
    for path in ("//evil.example/", "/\\evil.example/", "///evil.example"):
        answer = Client().get("/teams/ops-north/runs/", headers={"HX-Request": "true", "HX-Current-URL": path})
        assert "evil" not in answer["HX-Redirect"]


def test_htmx_is_told_to_leave_the_page_and_gets_no_login_form(team: Team):
    page = f"{OWN_ORIGIN}/teams/ops-north/runs/?status=failed"
    client = Client(headers={"HX-Request": "true", "HX-Current-URL": page, "host": "localhost:8000"})
    answer = client.get("/teams/ops-north/runs/table/?status=failed")
    assert (answer.status_code, answer.content) == (401, b"")
    assert way_of(answer["HX-Redirect"])[1]["next"] == ["/teams/ops-north/runs/?status=failed"]
    elsewhere = client.get("/teams/ops-north/runs/table/", headers={"HX-Current-URL": "https://evil.example/x"})
    assert way_of(elsewhere["HX-Redirect"]) == ("/accounts/login/", {"undone": ["page"]})


def test_a_disabled_person_is_out_at_the_next_request(team: Team, oli: User, client_of: ClientOf):
    client = client_of(oli)
    assert client.get("/teams/ops-north/runs/").status_code == 200
    User.objects.filter(pk=oli.pk).update(is_active=False)
    assert client.get("/teams/ops-north/runs/").status_code == 302
    assert client.get("/teams/ops-north/runs/table/", headers={"HX-Request": "true"}).status_code == 401


def test_who_lost_their_membership_is_an_outsider_at_the_next_request(team: Team, oli: User, client_of: ClientOf):
    client = client_of(oli)
    assert client.get("/teams/ops-north/runs/").status_code == 200
    Membership.objects.filter(user=oli).delete()
    assert client.get("/teams/ops-north/runs/").status_code == 404


def test_a_denial_stays_a_denial_when_it_cannot_be_recorded(
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
    """Mona's browser, with Django's check of the token that the test client leaves out otherwise."""
    User.objects.filter(pk=mona.pk).update(site_role="admin")
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost:8000"})
    client.force_login(mona, backend=settings.AUTHENTICATION_BACKENDS[0])
    return client


def path_of(name: str, kind: str, own: dict[str, uuid.UUID]) -> str:
    slug = [] if name == "team-new" else ["ops-north"]
    return reverse(name, args=slug + ([own[kind]] if kind else []))


@pytest.mark.parametrize(("name", "kind"), POSTS)
def test_a_post_without_the_token_or_from_elsewhere_does_nothing(
    name: str, kind: str, own: dict[str, uuid.UUID], strict: Client, arize: responses.RequestsMock
):
    url = path_of(name, kind, own)
    page = strict.get("/runs/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)', page.content.decode()).group(1)
    foreign_origin = {"Origin": "https://evil.example", "X-CSRFToken": token}
    foreign_referer = {"Referer": "https://evil.example/", "X-CSRFToken": token, "Origin": "null"}
    for headers in ({}, {"X-CSRFToken": "x" * 64}, foreign_origin, foreign_referer):
        answer = strict.post(url, headers=headers)
        assert answer.status_code == 403
        assert b"nothing was done" in answer.content
    assert not AuditEvent.objects.exclude(outcome="denied").exists()
    assert not arize.calls
    good = strict.post(url, headers={"Origin": OWN_ORIGIN, "X-CSRFToken": token})
    assert good.status_code in {200, 302, 422}


CHANGING = ["run-cancel", "credential-test", "member-role", "member-remove", "invitation-revoke", "member-add"]


@pytest.mark.parametrize("name", CHANGING)
def test_a_get_on_a_changing_url_is_405(name: str, own: dict[str, uuid.UUID], strict: Client):
    kinds = dict(POSTS)
    assert strict.get(path_of(name, kinds[name], own)).status_code == 405
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("name", ["credential-revoke", "team-archive", "credential-replace"])
def test_a_get_on_a_page_that_asks_changes_nothing(name: str, own: dict[str, uuid.UUID], strict: Client):
    before = Credential.objects.get(pk=own["credential_id"]).ciphertext
    assert strict.get(path_of(name, dict(POSTS)[name], own)).status_code == 200
    assert Credential.objects.get(pk=own["credential_id"]).ciphertext == before
    assert not AuditEvent.objects.exists()
