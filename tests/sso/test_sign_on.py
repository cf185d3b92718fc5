"""Single sign-on with a provider in its own process: which account it leads to, and which answers are refused."""

import time
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.test import Client

from taskruns.models import AuditEvent, Membership, PersonSession, Team, TeamRole, User
from taskruns.outbound import Egress, Session, Timeouts
from taskruns.sso import GroupRole, Provider
from taskruns.views.sso import provider
from tests.clients import ClientOf, sign_in, with_app
from tests.stored import dump, events

from .browser import Idp
from .identity_provider import CLIENT_ID, CLIENT_SECRET

COOKIE = settings.SESSION_COOKIE_NAME


def is_in(client: Client) -> bool:
    return client.get("/runs/").status_code == 200


# --- Accounts


def test_known_sso_account_signs_in_its_person(idp: Idp, linked: User, team: Team):
    client = Client()
    answer = idp.sign_in(client, next="/teams/ops-north/runs/?status=failed")
    assert (answer.status_code, answer["Location"]) == (302, "/teams/ops-north/runs/?status=failed")
    assert client.get("/accounts/profile/").context["user"] == linked
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome, row.actor_label, row.auth_method) == (
        "auth.sign_in",
        "done",
        "vera@example.com",
        "oidc",
    )


def test_authorization_request_ignores_the_visitors_parameters(idp: Idp, linked: User):
    client = Client()
    idp.send_back(client.post("/accounts/sso/?auth_params=prompt%3Dnone&scope=admin&process=connect"))
    asked = idp.asked()
    assert asked["code_challenge_method"] == "S256"
    assert {len(asked[name]) >= 16 for name in ("state", "nonce", "code_challenge")} == {True}
    assert set(asked["scope"].split()) == {"openid", "profile", "email"}
    assert "prompt" not in asked


def test_same_subject_of_another_issuer_is_another_person(idp: Idp, linked: User, settings: Any):
    SocialAccount.objects.update(provider=Provider("https://other.example", "x", "y").id)
    answer = idp.sign_in(Client())
    assert answer.status_code == 302
    assert User.objects.get(email="nina@example.com").pk != linked.pk


def test_unknown_sso_account_gets_an_account_without_rights(idp: Idp, team: Team):
    client = Client()
    idp.sign_in(client)
    nina = User.objects.get()
    assert (nina.email, nina.name, nina.site_role, nina.has_usable_password()) == (
        "nina@example.com",
        "Nina",
        "",
        False,
    )
    assert not Membership.objects.exists()
    assert events() == [("person.create", "done"), ("auth.sign_in", "done")]
    created = AuditEvent.objects.get(event="person.create")
    assert (created.details["single_sign_on"], created.details["subject"]) == (idp.url, "subject-1")
    assert "You are not in a team yet" in client.get("/runs/").content.decode()
    assert SocialAccount.objects.get().extra_data == {}


@pytest.mark.parametrize(
    "twist", [{"email": ""}, {"email": None}, {"email_verified": False}, {"email_verified": "true"}]
)
def test_unknown_sso_account_needs_a_verified_address(idp: Idp, db: None, twist: dict[str, Any]):
    idp.configure(userinfo=twist)
    client = Client()
    answer = idp.sign_in(client)
    assert answer.status_code == 403
    assert "did not provide a verified email address" in answer.content.decode()
    assert not User.objects.exists()
    assert not is_in(client)
    assert events() == [("auth.sign_in", "failed")]


def test_sso_does_not_take_over_an_account(idp: Idp, vera: User):
    idp.configure(userinfo={"email": "Vera@Example.com"})
    client = Client()
    answer = idp.sign_in(client)
    assert answer.status_code == 403
    assert "connect single sign-on in your profile" in answer.content.decode()
    assert not is_in(client)
    assert not SocialAccount.objects.exists()


def test_connected_sso_account_signs_in(idp: Idp, vera: User):
    idp.configure(userinfo={"email": "vera@example.com"})
    client = Client()
    sign_in(client, vera.email)
    assert "Connect single sign-on" in client.get("/accounts/profile/").content.decode()
    answer = idp.sign_in(client, "/accounts/sso/connect/")
    assert answer["Location"] == "/accounts/profile/"
    assert SocialAccount.objects.get().user == vera
    row = AuditEvent.objects.latest("pk")
    assert (row.event, row.details["single_sign_on"], row.details["subject"]) == (
        "profile.change",
        "connected",
        "subject-1",
    )
    another = Client()
    idp.sign_in(another)
    assert another.get("/accounts/profile/").context["user"] == vera
    client.post("/accounts/sso/disconnect/")
    assert not SocialAccount.objects.exists()
    assert AuditEvent.objects.latest("pk").details["single_sign_on"] == "disconnected"


def test_sso_account_of_another_person_cannot_be_connected(idp: Idp, linked: User, oli: User, client_of: ClientOf):
    client = client_of(oli)
    answer = idp.sign_in(client, "/accounts/sso/connect/")
    assert answer.status_code == 403
    assert "connected to another account" in answer.content.decode()
    assert SocialAccount.objects.get().user == linked


def test_sso_cannot_be_disconnected_without_a_password(idp: Idp, db: None):
    client = Client()
    idp.sign_in(client)
    client.post("/accounts/sso/disconnect/")
    assert SocialAccount.objects.exists()
    assert "no password" in client.get("/accounts/profile/").content.decode()
    assert client.get("/accounts/password/change/")["Location"] == "/accounts/profile/"


def test_disabled_person_cannot_sign_in_with_sso(idp: Idp, linked: User):
    User.objects.filter(pk=linked.pk).update(is_active=False)
    client = Client()
    assert idp.sign_in(client)["Location"] == "/accounts/inactive/"
    assert not is_in(client)
    row = AuditEvent.objects.latest("pk")
    assert (row.event, row.outcome, row.target_label) == ("auth.sign_in", "failed", linked.email)
    assert row.details == {"why": "account disabled"}


def test_sso_pages_are_absent_without_a_provider(db: None, vera: User, client_of: ClientOf):
    for client in (Client(), client_of(vera)):
        for path in ("/accounts/sso/", "/accounts/sso/connect/", "/accounts/sso/disconnect/"):
            assert client.post(path).status_code in {302, 404}
        assert client.get("/accounts/sso/callback/?code=x&state=y").status_code == 404
    assert b"sso" not in Client().get("/accounts/login/").content


# --- Answers that are refused

HOUR = 3_600
TWISTS: dict[str, dict[str, Any]] = {
    "issuer": {"claims": {"iss": "https://evil.example"}},
    "audience": {"claims": {"aud": "another-client"}},
    "audience among others with another azp": {"claims": {"aud": [CLIENT_ID, "x"], "azp": "x"}},
    "audience among others without azp": {"claims": {"aud": [CLIENT_ID, "x"]}},
    "nonce": {"claims": {"nonce": "of another sign-in"}},
    "no nonce": {"claims": {"nonce": None}},
    "expired": {"claims": {"exp": 1_600_000_000}},
    "no end": {"claims": {"exp": None}},
    "not yet": {"claims": {"iat": 4_000_000_000}},
    "no subject": {"claims": {"sub": ""}},
    "another key": {"signed_by": "other"},
    "no signature": {"signed_by": "none"},
    "signed with the client's secret": {"signed_by": "secret"},
    "user info of another person": {"userinfo": {"sub": "subject-2"}},
    "discovery of another issuer": {"discovery": {"issuer": "https://evil.example"}},
    "user info fails": {"statuses": {"/userinfo": 500}},
    "token fails": {"statuses": {"/token": 400}},
    "keys fail": {"statuses": {"/jwks": 404}},
    "keys are elsewhere": {"statuses": {"/jwks": 302}},
    "answer for another issuer": {"back": {"iss": "https://evil.example"}},
    "another state": {"back": {"state": "x" * 16}},
    "a sign-in in the future": {"claims": {"auth_time": 4_000_000_000}},
    "a time as text": {"claims": {"auth_time": "1700000000"}},
    "a time as boolean": {"claims": {"auth_time": True}},
    "a negative time": {"claims": {"auth_time": -1}},
    "a time as list": {"claims": {"auth_time": [1_700_000_000]}},
    "no code": {"back": {"code": "", "error": "server_error"}},
}


@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS)
def test_tampered_answer_signs_nobody_in(idp: Idp, linked: User, twist: dict[str, Any]):
    client = Client()
    away = client.post("/accounts/sso/")
    idp.configure(**twist)
    answer = client.get(idp.send_back(away))
    assert answer.status_code == 403
    assert "You were not signed in" in answer.content.decode()
    assert CLIENT_SECRET not in answer.content.decode()
    assert not is_in(client)
    assert events() == [("auth.sign_in", "failed")]
    idp.configure()
    idp.sign_in(client)
    assert is_in(client), "control: the same sign-in works untampered"


def test_replayed_callback_is_refused(idp: Idp, linked: User):
    client = Client()
    back = idp.send_back(client.post("/accounts/sso/"))
    assert client.get(back).status_code == 302
    client.post("/accounts/logout/")
    assert client.get(back).status_code == 403
    assert not is_in(client)
    assert Client().get(back).status_code == 403, "nor in another browser"


def test_callback_works_only_in_the_same_browser(idp: Idp, linked: User):
    """Otherwise an attacker could sign a victim in to the attacker's account."""
    back = idp.send_back(Client().post("/accounts/sso/"))
    victim = Client()
    assert victim.get(back).status_code == 403
    assert not is_in(victim)


@pytest.mark.parametrize(
    "twist",
    [
        {"discovery": {"issuer": "https://evil.example"}},
        {"discovery": {"token_endpoint": "ftp://evil.example"}},
        {"discovery": {"jwks_uri": None}},
        {"statuses": {"/.well-known/openid-configuration": 503}},
        {"statuses": {"/.well-known/openid-configuration": 302}},
    ],
    ids=str,
)
def test_bad_discovery_document_stops_the_redirect(idp: Idp, db: None, twist: dict[str, Any]):
    idp.configure(**twist)
    answer = Client().post("/accounts/sso/")
    assert answer.status_code == 502
    assert "does not respond" in answer.content.decode()


def test_provider_that_is_down_is_explained(idp: Idp, settings: Any, free_port: int, db: None):
    settings.OIDC = Provider(f"http://127.0.0.1:{free_port}", CLIENT_ID, CLIENT_SECRET)
    answer = Client().post("/accounts/sso/")
    assert (answer.status_code, "does not respond" in answer.content.decode()) == (502, True)


# --- Outbound requests use the same session as calls to Arize


def test_allauth_uses_the_panels_session(idp: Idp):
    with get_adapter().get_requests_session() as session:
        assert type(session) is Session


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/jwks", "/userinfo"])
def test_provider_answers_are_held_to_the_deadline(idp: Idp, linked: User, path: str, monkeypatch: Any):
    quick = Timeouts(connect=0.5, read=0.3)
    client = Client()
    back = idp.send_back(client.post("/accounts/sso/"))
    idp.configure(drips=[path])
    with monkeypatch.context() as hurried:
        hurried.setattr(provider, "EGRESS", Egress(quick))
        started = time.monotonic()
        assert client.get(back).status_code == 403
        assert time.monotonic() - started < quick.call + 2
    assert not is_in(client)
    idp.configure()
    idp.sign_in(client)
    assert is_in(client), "control: the same sign-in works without dripping"


def test_sso_ignores_proxy_variables(idp: Idp, linked: User, free_port: int, monkeypatch: Any):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("no_proxy", "")
    client = Client()
    away = client.post("/accounts/sso/")
    assert away.status_code == 302
    with monkeypatch.context() as bare:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            bare.delenv(name)
        back = idp.send_back(away)
    assert client.get(back).status_code == 302
    assert is_in(client)


# --- Second factors and recent sign-ins


def test_sso_still_asks_for_the_panels_second_factor(idp: Idp, linked: User):
    code = with_app(linked)
    client = Client()
    assert idp.sign_in(client, next="/runs/")["Location"] == "/accounts/login/second-factor/"
    assert not is_in(client)
    assert client.post("/accounts/login/second-factor/", {"code": code()})["Location"] == "/runs/"
    assert is_in(client)
    assert AuditEvent.objects.latest("pk").auth_method == "oidc+totp"


def test_second_factor_of_the_provider_counts(idp: Idp, linked: User, settings: Any):
    settings.REQUIRE_MFA = True
    User.objects.filter(pk=linked.pk).update(site_role="auditor")
    plain, strong = Client(), Client()
    idp.sign_in(plain)
    assert plain.get("/runs/")["Location"].startswith("/accounts/factors/")
    idp.configure(claims={"amr": ["pwd", "otp"]})
    idp.sign_in(strong)
    assert is_in(strong)


def test_old_sign_in_at_the_provider_must_be_confirmed(idp: Idp, linked: User, team: Team):
    Membership.objects.update(role="manager")
    User.objects.filter(pk=linked.pk).update(password="!")
    idp.configure(claims={"auth_time": int(time.time()) - HOUR})
    client = Client()
    idp.sign_in(client)
    asked = client.get("/teams/ops-north/credentials/new/")
    assert asked["Location"] == "/accounts/confirm/?next=%2Fteams%2Fops-north%2Fcredentials%2Fnew%2F"
    page = client.get(asked["Location"], follow=True)
    assert "127.0.0.1" in page.content.decode()
    answer = idp.sign_in(client, "/accounts/confirm/sso/", next="/teams/ops-north/credentials/new/")
    assert "did not ask you to sign in again" in answer.content.decode()
    asked_for = idp.asked()
    assert (asked_for["prompt"], asked_for["max_age"]) == ("login", "600")
    idp.configure()
    answer = idp.sign_in(client, "/accounts/confirm/sso/", next="/teams/ops-north/credentials/new/")
    assert answer["Location"] == "/teams/ops-north/credentials/new/"
    assert client.get(answer["Location"]).status_code == 200
    row = AuditEvent.objects.filter(event="auth.sign_in", outcome="done").latest("pk")
    assert row.details == {"again": True}


def test_sign_in_without_auth_time_must_be_confirmed(idp: Idp, linked: User, team: Team):
    Membership.objects.update(role="manager")
    idp.configure(claims={"auth_time": None})
    client = Client()
    idp.sign_in(client)
    assert client.get("/teams/ops-north/settings/").status_code == 302
    idp.configure()
    idp.sign_in(client, "/accounts/confirm/sso/")
    assert client.get("/teams/ops-north/settings/").status_code == 200


def test_confirmation_without_auth_time_is_refused(idp: Idp, linked: User, team: Team):
    """Removing `prompt` and `max_age` from the address leads to such an answer. Unsigned user info does not help."""
    Membership.objects.update(role="manager")
    client = Client()
    idp.configure(claims={"auth_time": None}, userinfo={"auth_time": int(time.time())})
    idp.sign_in(client)
    answer = idp.sign_in(client, "/accounts/confirm/sso/")
    assert (answer.status_code, "did not say when you signed in" in answer.content.decode()) == (403, True)
    assert client.get("/teams/ops-north/settings/").status_code == 302
    assert AuditEvent.objects.latest("pk").details == {"why": "no auth_time", "again": True}


def test_provider_without_auth_time_can_be_allowed(idp: Idp, linked: User, team: Team, settings: Any):
    settings.OIDC = replace(settings.OIDC, sends_auth_time=False)
    Membership.objects.update(role="manager")
    idp.configure(claims={"auth_time": None})
    client = Client()
    idp.sign_in(client)
    assert client.get("/teams/ops-north/settings/").status_code == 302, "a sign-in alone is no recent proof"
    idp.sign_in(client, "/accounts/confirm/sso/")
    assert client.get("/teams/ops-north/settings/").status_code == 200


OLD_TIMES: dict[str, Any] = {
    "an hour ago": lambda now: int(now) - HOUR,
    "before the question, within max_age": lambda now: int(now) - 300,
    "a float": lambda now: now - 300.5,
    "the future": lambda now: now + HOUR,
    "text": str,
    "text of a float": lambda now: f"{now:.1f}",
    "negative": lambda now: -now,
    "zero": lambda _now: 0,
    "boolean": lambda _now: True,
    "a list": lambda now: [now],
    "huge": lambda _now: 10**400,
}


@pytest.mark.parametrize("wrong_time", OLD_TIMES.values(), ids=OLD_TIMES)
def test_confirmation_with_a_wrong_auth_time_is_refused(idp: Idp, linked: User, team: Team, wrong_time: Any):
    Membership.objects.update(role="manager")
    client = Client()
    idp.configure(claims={"auth_time": None})
    idp.sign_in(client)
    idp.configure(claims={"auth_time": wrong_time(time.time())})
    assert idp.sign_in(client, "/accounts/confirm/sso/").status_code == 403
    assert client.get("/teams/ops-north/settings/").status_code == 302


def test_auth_time_may_be_a_float(idp: Idp, linked: User, team: Team):
    Membership.objects.update(role="manager")
    client = Client()
    idp.configure(claims={"auth_time": None})
    idp.sign_in(client)
    idp.configure(claims={"auth_time": time.time()})
    assert idp.sign_in(client, "/accounts/confirm/sso/").status_code == 302
    assert client.get("/teams/ops-north/settings/").status_code == 200


@pytest.mark.parametrize(
    ("asked", "used"),
    [("/accounts/sso/", "/accounts/confirm/sso/"), ("/accounts/confirm/sso/", "/accounts/sso/connect/")],
)
def test_answer_to_one_request_is_refused_for_another(
    idp: Idp, linked: User, client_of: ClientOf, asked: str, used: str
):
    """The code of one request with the state of another: nonce and PKCE verifier do not match."""
    client = client_of(linked)
    code = parse_qs(urlsplit(idp.send_back(client.post(asked))).query)["code"]
    state = parse_qs(urlsplit(idp.send_back(client.post(used))).query)["state"]
    answer = client.get("/accounts/sso/callback/", {"code": code[0], "state": state[0]})
    assert answer.status_code == 403
    assert SocialAccount.objects.count() == 1


def test_confirming_as_another_person_is_refused(idp: Idp, linked: User):
    client = Client()
    idp.sign_in(client)
    idp.configure(claims={"sub": "subject-2"})
    answer = idp.sign_in(client, "/accounts/confirm/sso/")
    assert "a different person" in answer.content.decode()
    assert client.get("/accounts/profile/").context["user"] == linked


# --- Groups


def roles(email: str = "nina@example.com") -> dict[str, tuple[str, bool]]:
    rows = Membership.objects.filter(user__email=email)
    return {row.team.slug: (row.role, row.by_groups) for row in rows}


def test_groups_assign_change_and_remove_roles(idp: Idp, team: Team, mona: User):
    for groups, wanted in (
        (["ops"], {"ops-north": ("operator", True)}),
        (["ops", "leads"], {"ops-north": ("manager", True)}),
        (["leads-of-others"], {}),
    ):
        idp.configure(claims={"groups": groups})
        assert idp.sign_in(Client()).status_code == 302
        assert roles() == wanted
    changes = AuditEvent.objects.filter(event__startswith="member.")
    assert [row.event for row in changes] == ["member.add", "member.change_role", "member.remove"]
    assert {(row.actor_type, row.actor_label, row.team_id) for row in changes} == {("job", "single sign-on", team.pk)}


@pytest.mark.parametrize("groups", [None, {"ops": True}, True, [], "", [["x"], {"ops": 1}, None]], ids=str)
def test_role_ends_when_the_claim_lacks_its_group(idp: Idp, team: Team, groups: Any):
    idp.configure(claims={"groups": ["ops"]})
    idp.sign_in(Client())
    assert roles() == {"ops-north": ("operator", True)}
    idp.configure(claims={"groups": groups})
    assert idp.sign_in(Client()).status_code == 302
    assert roles() == {}


def test_missing_groups_claim_is_logged(idp: Idp, team: Team, caplog: pytest.LogCaptureFixture):
    idp.sign_in(Client())
    assert "'event': 'groups_missing'" in caplog.text
    assert "'claim': 'groups'" in caplog.text


def test_role_ends_when_the_groups_claim_is_null(idp: Idp, team: Team):
    idp.configure(userinfo={"groups": "ops"})
    idp.sign_in(Client())
    assert roles() == {"ops-north": ("operator", True)}
    idp.configure(userinfo={"groups": None})
    idp.sign_in(Client())
    assert roles() == {}


@pytest.mark.parametrize("groups", ["ops", " ops ", ["ops"], [["ops"]], ["x", 7, None, {"a": 1}, "ops"]], ids=str)
def test_group_is_read_from_every_form_of_the_claim(idp: Idp, team: Team, groups: Any):
    idp.configure(claims={"groups": groups})
    assert idp.sign_in(Client()).status_code == 302
    assert roles() == {"ops-north": ("operator", True)}


def test_group_may_be_a_number(idp: Idp, team: Team, settings: Any):
    settings.OIDC = replace(settings.OIDC, group_roles=(GroupRole("4711", "ops-north", "viewer"),))
    for groups, wanted in (([4711], {"ops-north": ("viewer", True)}), ([True, 10**50], {})):
        idp.configure(claims={"groups": groups})
        idp.sign_in(Client())
        assert roles() == wanted


def test_role_stays_when_no_group_roles_are_configured(idp: Idp, team: Team, settings: Any):
    idp.configure(claims={"groups": ["ops"]})
    idp.sign_in(Client())
    settings.OIDC = replace(settings.OIDC, group_roles=())
    idp.configure()
    idp.sign_in(Client())
    assert roles() == {"ops-north": ("operator", True)}


def test_scopes_are_configurable(idp: Idp, db: None, settings: Any):
    settings.OIDC = replace(settings.OIDC, scopes=("openid", "email", "groups"))
    idp.send_back(Client().post("/accounts/sso/"))
    assert set(idp.asked()["scope"].split()) == {"openid", "email", "groups"}


def test_groups_do_not_change_manual_roles(idp: Idp, linked: User, team: Team, mona: User):
    idp.configure(claims={"groups": []})
    idp.sign_in(Client())
    assert roles("vera@example.com") == {"ops-north": ("viewer", False)}
    idp.configure(claims={"groups": ["leads"]})
    idp.sign_in(Client())
    assert roles("vera@example.com") == {"ops-north": ("viewer", False)}


def test_groups_do_not_remove_the_last_manager(idp: Idp, team: Team):
    for groups in (["leads"], []):
        idp.configure(claims={"groups": groups})
        assert idp.sign_in(Client()).status_code == 302
    assert roles() == {"ops-north": ("manager", True)}


def test_role_changed_by_hand_ignores_groups(idp: Idp, team: Team, mona: User, client_of: ClientOf):
    idp.configure(claims={"groups": ["ops"]})
    idp.sign_in(Client())
    nina = User.objects.get(email="nina@example.com")
    client_of(mona).post(f"/teams/ops-north/members/{nina.pk}/role/", {"role": TeamRole.VIEWER})
    idp.sign_in(Client())
    assert roles() == {"ops-north": ("viewer", False)}


def test_sso_state_is_refused_after_ten_minutes(idp: Idp, linked: User):
    client = Client()
    away = client.post("/accounts/sso/")
    with time_machine.travel(time.time() + 601):
        idp.configure(claims={"exp": 4_000_000_000, "iat": 1_700_000_000})
        assert client.get(idp.send_back(away)).status_code == 403


def test_next_cannot_lead_to_another_site(idp: Idp, linked: User):
    for target in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        assert idp.sign_in(Client(), next=target)["Location"] == "/"
    assert parse_qs(urlsplit(Client().get("/runs/")["Location"]).query) == {"next": ["/runs/"]}


# --- The state of a sign-in at the provider


def test_starting_sso_writes_no_row(idp: Idp, linked: User):
    before = dump()
    client = Client()
    for _ in range(12):
        assert client.post("/accounts/sso/", {"next": "/teams/ops-north/runs/"}).status_code == 302
        assert len(client.cookies[COOKIE].value) < 3_000
    assert dump() == before
    idp.sign_in(client)
    assert is_in(client)
    assert PersonSession.objects.count() == 1


def test_a_late_return_from_the_provider_is_explained(idp: Idp, linked: User):
    for minutes, is_let_in in ((4.9, True), (5.1, False)):
        client = Client()
        back = idp.send_back(client.post("/accounts/sso/"))
        with time_machine.travel(time.time() + 60 * minutes):
            answer = client.get(back)
            assert ("more than 5 minutes ago" in answer.content.decode()) is not is_let_in
        assert is_in(client) is is_let_in


def test_a_long_next_is_no_500(idp: Idp, linked: User):
    client = Client()
    client.post("/accounts/sso/", {"next": "/" + "".join(map(str, range(3_000)))})
    assert client.get("/accounts/sso/callback/?state=x&code=y").status_code == 403


@pytest.mark.parametrize(
    ("token", "info", "is_verified"),
    [
        ({"email": "boss@example.com"}, {}, False),
        ({"email": "boss@example.com", "email_verified": False}, {"email": "boss@example.com"}, False),
        ({"email_verified": True}, {"email_verified": None}, False),
        ({"email_verified": True}, {"email_verified": False}, False),
        ({"email": "boss@example.com", "email_verified": True}, {"email_verified": False}, True),
        ({"email": "boss@example.com"}, {"email": "boss@example.com"}, True),
        ({}, {"email": "boss@example.com"}, True),
    ],
    ids=str,
)
def test_an_address_is_verified_by_the_source_that_names_it(
    idp: Idp, db: None, token: dict[str, Any], info: dict[str, Any], *, is_verified: bool
):
    """The user info has nina@example.com, which is verified."""
    idp.configure(claims=token, userinfo=info)
    assert idp.sign_in(Client()).status_code == (302 if is_verified else 403)
    assert [person.email for person in User.objects.all()] == (["boss@example.com"] if is_verified else [])
