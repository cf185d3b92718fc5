"""Second factors: adding, using and losing them, who must have one, and what needs a recent sign-in."""

import io
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import time_machine
from allauth.account.authentication import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.mfa.models import Authenticator
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from taskruns.audit import Actor
from taskruns.encryption import DecryptionFailed
from taskruns.models import AuditEvent, Credential, Membership, Run, Team, User
from taskruns.services.people import accounts, factors
from tests.clients import ClientOf, Code, code_of, sign_in, with_app
from tests.factories import PASSWORD, actor, make_credential
from tests.stored import events
from tests.wire import run_url, wire_run

STEP = "/accounts/login/second-factor/"
BOARD = "/teams/ops-north/runs/"


@pytest.fixture
def app(mona: User) -> Code:
    return with_app(mona)


def enter(client: Client, person: User, code: str) -> Any:
    sign_in(client, person.email)
    return client.post(STEP, {"code": code})


def is_in(client: Client) -> bool:
    return client.get("/runs/").status_code == 200


# --- Signing in with one


def test_password_alone_does_not_replace_a_second_factor(mona: User, app: Code):
    client = Client()
    assert sign_in(client, mona.email)["Location"] == STEP
    assert not is_in(client)
    assert client.get(STEP).status_code == 200
    assert client.post(STEP, {"code": app()})["Location"] == "/"
    assert is_in(client)
    row = AuditEvent.objects.latest("pk")
    assert (row.event, row.outcome, row.auth_method) == ("auth.sign_in", "done", "password+totp")


@pytest.mark.parametrize("wrong", ["000000", "", "abc", "1" * 500, "\N{ARABIC-INDIC DIGIT ONE}" * 6])
def test_wrong_code_is_refused_and_recorded(mona: User, app: Code, wrong: str):
    client = Client()
    assert enter(client, mona, wrong).status_code == 200
    assert not is_in(client)
    failed = AuditEvent.objects.filter(event="auth.sign_in", outcome="failed")
    assert failed.count() == (1 if wrong else 0)
    for row in failed:
        assert (row.target_label, row.details["why"]) == (mona.email, "second factor")


def test_code_works_only_once(mona: User, app: Code):
    """It fails in the next 30 seconds too, although an unused code of that step still works."""
    first, second = Client(), Client()
    began = time.time() // 30 * 30 + 1
    with time_machine.travel(began):
        code, unused = app(), app(1)
        assert enter(first, mona, code).status_code == 302
        for spelled in (code, f" {code[:3]} {code[3:]} "):
            answer = enter(second, mona, spelled)
            assert answer.status_code == 200
            assert not is_in(second)
    for later in (31, 61):
        with time_machine.travel(began + later):
            assert enter(second, mona, f"{code[:3]}-{code[3:]}").status_code == 200, later
            assert not is_in(second)
    with time_machine.travel(began + 61):
        assert enter(second, mona, unused).status_code == 302, "control: one step old and not used"
    assert ("auth.sign_in", "failed") in events()


def test_code_may_contain_a_dash(mona: User, app: Code):
    code = app()
    assert enter(Client(), mona, f"{code[:3]}-{code[3:]}").status_code == 302


CHANGES: dict[str, Callable[[User], Any]] = {
    "password reset": lambda person: accounts.reset_sign_in(
        person, password="another battery staple", by=Actor.command()
    ),
    "account disabled": lambda person: accounts.disable_person(person, by=Actor.command()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_account_change_ends_a_sign_in_in_progress(change: Callable[[User], Any], mona: User, app: Code):
    client = Client()
    sign_in(client, mona.email)
    change(mona)
    answer = client.post(STEP, {"code": app()})
    assert answer["Location"] == "/accounts/login/"
    assert not is_in(client)
    assert AuditEvent.objects.latest("pk").details == {"why": "account changed"}
    assert client.get(STEP)["Location"] == "/accounts/login/", "the sign-in cannot be continued"


def test_setup_code_cannot_be_reused_to_sign_in(vera: User, client_of: ClientOf):
    client = client_of(vera)
    page = client.get("/accounts/factors/app/")
    code = code_of(page.context["secret"])
    assert client.post("/accounts/factors/app/", {"code": code}).status_code == 200
    assert enter(Client(), vera, code).status_code == 200


def test_only_codes_of_adjacent_steps_are_accepted(mona: User, app: Code):
    assert enter(Client(), mona, app(-1)).status_code == 302
    assert enter(Client(), mona, app(1)).status_code == 302
    assert enter(Client(), mona, app(-2)).status_code == 200
    assert enter(Client(), mona, app(3)).status_code == 200


def test_guessing_codes_is_throttled(mona: User, app: Code):
    client = Client()
    sign_in(client, mona.email)
    for number in range(5):
        Client()
        client.post(STEP, {"code": f"{number:06}"})
    answer = client.post(STEP, {"code": app()})
    assert "Too many" in answer.content.decode()
    assert not is_in(client)
    assert ("auth.sign_in", "throttled") in events()


def test_recovery_code_works_once(mona: User, app: Code):
    codes = factors.renew_recovery_codes(mona, by=actor(mona))
    assert len(set(codes)) == 10
    assert enter(Client(), mona, codes[0]).status_code == 302
    assert enter(Client(), mona, codes[0]).status_code == 200
    assert enter(Client(), mona, codes[1]).status_code == 302
    assert factors.codes_left(mona) == 8
    assert AuditEvent.objects.latest("pk").auth_method == "password+recovery-code"


# --- Storage


def test_no_secret_is_stored_in_plaintext(vera: User, client_of: ClientOf):
    client = client_of(vera)
    secret = client.get("/accounts/factors/app/").context["secret"]
    answer = client.post("/accounts/factors/app/", {"code": code_of(secret)})
    codes = re.findall(r"<li><code>(\d{8})</code>", answer.content.decode())
    assert len(codes) == 10
    stored = str(list(Authenticator.objects.values())) + str(list(AuditEvent.objects.values()))
    assert not [text for text in (secret, *codes) if text in stored]
    assert secret not in str(client.session.items())
    assert codes[0] not in client.get("/accounts/factors/").content.decode(), "shown once"


def test_secret_of_another_person_cannot_be_decrypted(mona: User, vera: User, app: Code):
    theirs = with_app(vera)
    rows = {row.user_id: row for row in Authenticator.objects.filter(type="totp")}
    rows[mona.pk].data = rows[vera.pk].data
    rows[mona.pk].save()
    answer = enter(Client(), mona, theirs())
    assert "cannot be decrypted" in answer.content.decode()
    assert enter(Client(), vera, theirs(1)).status_code == 302, "control"


def test_lost_ring_key_is_explained(mona: User, app: Code, settings: Any, client_of: ClientOf):
    client = client_of(mona)
    settings.ENCRYPTION_KEYS = {3: "b3RoZXItcmluZy1rZXktb2YtdGhlLXRlc3RzLTAxMjM="}
    answer = enter(Client(), mona, app())
    assert (answer.status_code, "ENCRYPTION_KEYS" in answer.content.decode()) == (200, True)
    page = client.get("/accounts/factors/")
    assert (page.status_code, "cannot be decrypted" in page.content.decode()) == (200, True)


def test_secrets_move_to_the_newest_ring_key(mona: User, app: Code, settings: Any):
    old = settings.ENCRYPTION_KEYS
    settings.ENCRYPTION_KEYS = {3: "b3RoZXItcmluZy1rZXktb2YtdGhlLXRlc3RzLTAxMjM=", **old}
    call_command("reencrypt_credentials", stdout=io.StringIO())
    assert {factors.reencrypt(row) for row in Authenticator.objects.all()} == {False}, "nothing is left to do"
    settings.ENCRYPTION_KEYS = {3: settings.ENCRYPTION_KEYS[3]}
    assert enter(Client(), mona, app()).status_code == 302
    assert factors.codes_left(mona) == 10
    settings.ENCRYPTION_KEYS = old
    with pytest.raises(DecryptionFailed):
        factors.codes_left(mona)


# --- Adding and removing


def test_adding_an_app_shows_its_secret_and_is_recorded(vera: User, client_of: ClientOf):
    client = client_of(vera)
    page = client.get("/accounts/factors/app/")
    text = page.content.decode()
    assert page.context["secret"] in text
    assert '<svg class="qr"' in text
    assert client.post("/accounts/factors/app/", {"code": "000000"}).status_code == 422
    assert client.post("/accounts/factors/app/", {"code": code_of(page.context["secret"])}).status_code == 200
    row = AuditEvent.objects.latest("pk")
    assert (row.event, row.details) == ("auth.mfa_add", {"factor": "authenticator app", "recovery_codes": True})
    assert client.get("/accounts/factors/app/")["Location"] == "/accounts/factors/"


def test_removing_the_last_factor_deletes_recovery_codes(mona: User, app: Code):
    client = Client()
    enter(client, mona, app())
    pk = Authenticator.objects.get(type="totp").pk
    assert client.get(f"/accounts/factors/{pk}/remove/").status_code == 200
    client.post(f"/accounts/factors/{pk}/remove/")
    assert not Authenticator.objects.exists()
    assert AuditEvent.objects.latest("pk").event == "auth.mfa_remove"
    assert sign_in(Client(), mona.email)["Location"] == "/"


def test_removing_a_factor_ends_the_other_sessions(mona: User, app: Code, vera: User, client_of: ClientOf):
    here, there, theirs = Client(), client_of(mona), client_of(vera)
    enter(here, mona, app())
    pk = Authenticator.objects.get(type="totp").pk
    here.post(f"/accounts/factors/{pk}/remove/")
    assert [is_in(client) for client in (here, there, theirs)] == [True, False, True]
    assert AuditEvent.objects.latest("pk").details["sessions_ended"] == 1


def test_factor_of_another_person_is_a_404(mona: User, app: Code, vera: User, client_of: ClientOf):
    pk = Authenticator.objects.get(type="totp").pk
    assert client_of(vera).post(f"/accounts/factors/{pk}/remove/").status_code == 404
    row = AuditEvent.objects.latest("pk")
    assert (row.chain, row.event, row.actor_label) == ("site", "access.denied", vera.email)
    assert Authenticator.objects.filter(pk=pk).exists()


def test_required_last_factor_cannot_be_removed(mona: User, app: Code, settings: Any):
    settings.REQUIRE_MFA = True
    client = Client()
    enter(client, mona, app())
    pk = Authenticator.objects.get(type="totp").pk
    answer = client.post(f"/accounts/factors/{pk}/remove/")
    assert (answer.status_code, "your only one" in answer.content.decode()) == (422, True)
    assert Authenticator.objects.filter(pk=pk).exists()


def test_reset_deletes_lost_factors(mona: User, app: Code):
    assert accounts.reset_sign_in(mona, password=PASSWORD, drop_factors=True, by=Actor.command())
    assert not Authenticator.objects.exists()
    assert AuditEvent.objects.latest("pk").details["factors_dropped"] == 1
    assert not accounts.reset_sign_in(mona, password=PASSWORD, drop_factors=True, by=Actor.command())
    assert sign_in(Client(), mona.email)["Location"] == "/"


# --- Who must have one


@pytest.fixture
def required(settings: Any) -> None:
    settings.REQUIRE_MFA = True


EVERYWHERE = ["/", "/runs/", "/rights/", "/accounts/profile/", "/accounts/sessions/", "/accounts/password/change/"]


@pytest.mark.parametrize("who", ["mona", "otto", "ada", "adam"])
def test_missing_second_factor_allows_only_its_setup(
    required: None, who: str, cast: dict[str, User | None], team: Team, client_of: ClientOf
):
    client = client_of(cast[who])
    board = BOARD.replace("north", "south") if who == "otto" else BOARD
    for path in (*EVERYWHERE, board):
        assert client.get(path)["Location"].startswith("/accounts/factors/"), path
    poll = client.get(f"{board}table/", headers={"HX-Request": "true"})
    assert (poll.status_code, poll["HX-Redirect"].split("?")[0]) == (401, "/accounts/factors/")
    page = client.get("/accounts/factors/")
    assert (page.status_code, "requires a second factor" in page.content.decode()) == (200, True)
    assert client.get("/accounts/factors/app/").status_code == 200
    assert client.post("/accounts/logout/").status_code == 302


@pytest.mark.parametrize("who", ["vera", "oli"])
def test_viewers_and_operators_need_no_second_factor(
    required: None, who: str, cast: dict[str, User | None], team: Team, client_of: ClientOf
):
    assert client_of(cast[who]).get(BOARD).status_code == 200


def test_post_without_the_required_factor_is_denied(required: None, mona: User, run: Run, client_of: ClientOf):
    answer = client_of(mona).post(f"{BOARD}{run.pk}/cancel/", {"confirmed": "1", "reason": "x"})
    assert (answer.status_code, "second factor" in answer.content.decode()) == (403, True)
    assert not run.cancellations.exists()
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome, row.details["why"]) == ("run.cancel", "denied", "no second factor")


def test_setup_returns_to_the_requested_page(required: None, mona: User):
    client = Client()
    sign_in(client, mona.email)
    client.get(client.get(BOARD)["Location"])
    secret = client.get("/accounts/factors/app/").context["secret"]
    page = client.post("/accounts/factors/app/", {"code": code_of(secret)})
    assert f'href="{BOARD}"' in page.content.decode()
    assert client.get(BOARD).status_code == 200
    with time_machine.travel(time.time() + 3_600):
        again = Client()
        assert enter(again, mona, code_of(secret)).status_code == 302
        assert again.get(BOARD).status_code == 200


def test_new_manager_needs_one_from_the_next_request(required: None, oli: User, client_of: ClientOf):
    client = client_of(oli)
    assert client.get(BOARD).status_code == 200
    Membership.objects.update(role="manager")
    assert client.get(BOARD)["Location"].startswith("/accounts/factors/")


def test_a_poll_stays_within_four_queries_and_a_board_within_fourteen(
    required: None, oli: User, credential: Credential, client_of: ClientOf
):
    client = client_of(oli)
    etag = client.get(f"{BOARD}table/", headers={"HX-Request": "true"})["ETag"]
    with CaptureQueriesContext(connection) as queries:
        poll = client.get(f"{BOARD}table/", headers={"HX-Request": "true", "If-None-Match": etag})
    assert poll.status_code == 304
    assert len(queries) <= 4
    with CaptureQueriesContext(connection) as queries:
        client.get(BOARD)
    assert len(queries) <= 14


# --- Recent sign-in


def later(minutes: float) -> Any:
    return time_machine.travel(time.time() + 60 * minutes)


def test_credential_page_asks_to_confirm_after_ten_minutes(mona: User, team: Team):
    client = Client()
    sign_in(client, mona.email)
    target = reverse("credential-new", args=[team.slug])
    with later(9.5):
        assert client.get(target).status_code == 200
    with later(10.5):
        confirmation = client.get(target)
        assert (confirmation.status_code, confirmation["Location"].split("?")[0]) == (302, "/accounts/confirm/")
        page = client.get(confirmation["Location"], follow=True)
        assert page.request["PATH_INFO"] == "/accounts/confirm/password/"
        assert client.post("/accounts/confirm/password/", {"password": "wrong", "next": target}).status_code == 200
        assert client.get(target).status_code == 302
        back = client.post("/accounts/confirm/password/", {"password": PASSWORD, "next": target})
        assert back["Location"] == target
        assert client.get(target).status_code == 200
    rows = [(row.outcome, row.details.get("again")) for row in AuditEvent.objects.filter(event="auth.sign_in")]
    assert rows == [("done", None), ("failed", True), ("done", True)]


def test_confirmation_needs_the_second_factor(mona: User, app: Code, team: Team):
    client = Client()
    enter(client, mona, app())
    target = reverse("members", args=[team.slug])
    settings_page = reverse("team-settings", args=[team.slug])
    with later(11):
        assert "confirm it's you" in client.get(target).content.decode()
        assert client.get(settings_page).status_code == 302
        assert client.get("/accounts/confirm/")["Location"] == "/accounts/confirm/code/"
        assert client.post("/accounts/confirm/password/", {"password": PASSWORD}).status_code == 302
        assert client.get(settings_page).status_code == 302, "the password alone is not enough"
        client.post("/accounts/confirm/code/", {"code": app()})
        assert client.get(settings_page).status_code == 200
        assert "confirm it's you" not in client.get(target).content.decode()


@pytest.mark.parametrize(("method", "status"), [("password", 302), ("socialaccount", 302), ("mfa", 200)])
def test_first_factor_again_is_no_confirmation(mona: User, app: Code, team: Team, method: str, status: int):
    """A person with a second factor can confirm only with it, no matter which other method the session lists."""
    client = Client()
    enter(client, mona, app())
    with later(11):
        session, now = client.session, time.time()
        again = {"method": method, "at": now, "auth_time": now, "reauthenticated": True}
        session[AUTHENTICATION_METHODS_SESSION_KEY] = [*session[AUTHENTICATION_METHODS_SESSION_KEY], again]
        session.save()
        assert client.get(reverse("team-settings", args=[team.slug])).status_code == status


KEY = "ak-never-kept-1Xy7Qz4Mn8Lk2Jh5"
CONFIRM = "/accounts/confirm/?next=%2Faccounts%2Fconfirm%2Ffinish%2F"


def test_stale_post_is_refused_and_its_secret_not_stored(mona: User, team: Team):
    client = Client(headers={"host": "localhost:8000"})
    sign_in(client, mona.email)
    with later(11):
        page = f"http://localhost:8000/teams/{team.slug}/credentials/"
        url = reverse("credential-new", args=[team.slug])
        answer = client.post(url, {"name": "x", "key": KEY}, headers={"Referer": page})
        assert (answer.status_code, answer["Location"]) == (302, CONFIRM)
        assert KEY not in answer.content.decode() + str(dict(client.session))
        confirming = client.get(CONFIRM, follow=True).content.decode()
        assert "“Add the API key” needs a recent sign-in. Nothing was changed yet." in confirming
        assert not Credential.objects.exists()
        row = AuditEvent.objects.latest("pk")
        assert (row.event, row.outcome, row.details["why"]) == ("credential.add", "denied", "no recent sign-in")
        # The same with other headers.
        assert client.post(url, {"name": "x", "key": KEY}, headers={"HX-Request": "true"}).status_code == 401
        assert AuditEvent.objects.filter(outcome="denied", event="credential.add").count() == 2
        client.post(url, {}, headers={"Referer": "https://evil.example/teams/"})
        assert "evil" not in str(dict(client.session))


def test_failed_confirmation_is_recorded_for_the_person(mona: User, app: Code, team: Team):
    """Each failure gets a row, unlike failures of anonymous visitors, which are limited."""
    client = Client()
    enter(client, mona, app())
    for _ in range(2):
        client.post("/accounts/confirm/code/", {"code": "000000"})
    rows = AuditEvent.objects.filter(event="auth.sign_in", outcome="failed")
    assert [(row.actor_type, row.actor_label, row.session_ref != "") for row in rows] == [
        ("user", mona.email, True)
    ] * 2


def sensitive_urls(team: Team, vera: User) -> dict[str, str]:
    credential = make_credential(team)
    return {
        "credential-new": reverse("credential-new", args=[team.slug]),
        "credential-replace": reverse("credential-replace", args=[team.slug, credential.pk]),
        "credential-test": reverse("credential-test", args=[team.slug, credential.pk]),
        "credential-revoke": reverse("credential-revoke", args=[team.slug, credential.pk]),
        "member-add": reverse("member-add", args=[team.slug]),
        "member-role": reverse("member-role", args=[team.slug, vera.pk]),
        "member-remove": reverse("member-remove", args=[team.slug, vera.pk]),
        "team-settings": reverse("team-settings", args=[team.slug]),
        "team-archive": reverse("team-archive", args=[team.slug]),
        "team-new": reverse("team-new"),
        "factor-totp": reverse("factor-totp"),
        "factor-passkey": reverse("factor-passkey"),
        "factor-recovery-codes": reverse("factor-recovery-codes"),
        "person-role": reverse("person-role", args=[vera.pk]),
        "person-disable": reverse("person-disable", args=[vera.pk]),
        "person-enable": reverse("person-enable", args=[vera.pk]),
        "person-sessions-end": reverse("person-sessions-end", args=[vera.pk]),
    }


def test_sensitive_actions_require_a_recent_sign_in(team: Team, mona: User, vera: User, client_of: ClientOf):
    User.objects.filter(pk=mona.pk).update(site_role="admin")
    client = client_of(mona)
    urls = sensitive_urls(team, vera)
    with later(11):
        for name, url in urls.items():
            answer = client.post(url)
            assert (name, answer.status_code, answer.get("Location")) == (name, 302, CONFIRM)
        for url in (f"/teams/{team.slug}/audit/export.jsonl", "/audit/export.csv"):
            assert client.get(url)["Location"].startswith("/accounts/confirm/")


def test_cancel_never_asks_to_confirm(team: Team, oli: User, run: Run, arize: Any, client_of: ClientOf):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    client = client_of(oli)
    with_app(oli)
    with later(600):
        assert client.get(BOARD).status_code == 200
        assert client.post(f"{BOARD}{run.pk}/cancel/", {"confirmed": "1"}).status_code == 302
    assert run.cancellations.exists()


def test_person_without_a_confirmation_method_gets_an_explanation(vera: User, client_of: ClientOf):
    client = client_of(vera)
    User.objects.filter(pk=vera.pk).update(password="!")
    answer = client_of(User.objects.get(pk=vera.pk)).get("/accounts/confirm/")
    assert (answer.status_code, "reset your sign-in" in answer.content.decode()) == (403, True)
    assert client.get("/accounts/confirm/").status_code == 302


def test_a_factor_is_removed_once(vera: User):
    """Two clicks on Remove, which both passed the page's own check."""
    with_app(vera)
    twice = [Authenticator.objects.get(user=vera, type="totp") for _ in range(2)]
    before = len(events())
    removed = [factors.remove(one, vera, must_keep_one=False, session_key="", by=Actor.command()) for one in twice]
    assert removed == [True, False]
    assert events()[before:] == [("auth.mfa_remove", "done")]
