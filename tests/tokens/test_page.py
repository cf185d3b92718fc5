"""The pages of tokens: what they show, once and never again."""

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from taskruns import jobs
from taskruns.models import (
    AuditEvent,
    Cancellation,
    Credential,
    Membership,
    Outcome,
    Run,
    Status,
    Team,
    TeamRole,
    Token,
    User,
)
from taskruns.services.tokens.identify import identify
from tests.clients import ClientOf
from tests.factories import make_credential, make_run, make_token, member
from tests.stored import dump

pytestmark = pytest.mark.django_db
TOKENS = "/teams/ops-north/tokens/"
NEW = {"name": "Airflow", "role": "operator", "days": "90", "credential": "", "networks": ""}


@pytest.fixture
def browser(mona: User, client_of: ClientOf) -> Client:
    return client_of(mona)


def text_of(answer: Any) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", answer.content.decode())))


def row_of(page: Any, token: Token) -> str:
    """The text of the token's row."""
    html = page.content.decode().split(f'id="token-{token.pk}"')[1].split("</tr>")[0]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", f"<tr {html}")))


def secret_in(answer: Any) -> str:
    (secret,) = set(re.findall(r"tr_[0-9A-Za-z]{36}", answer.content.decode()))
    return str(secret)


def test_an_empty_page_says_what_tokens_are_for(browser: Client):
    page = text_of(browser.get(TOKENS))
    assert "No tokens yet" in page
    assert "Create token" in page


def test_the_secret_is_in_one_answer_only(
    browser: Client, team: Team, credential: Credential, caplog: pytest.LogCaptureFixture
):
    made = browser.post(f"{TOKENS}new/", NEW | {"credential": str(credential.pk), "networks": "192.0.2.0/24"})
    secret = secret_in(made)
    assert made.status_code == 200
    assert "no-store" in made.headers["Cache-Control"]
    assert identify(secret, ip="192.0.2.7", client="").team == team
    for path in (TOKENS, f"{TOKENS}new/", "/teams/ops-north/audit/", "/teams/ops-north/runs/"):
        assert secret[3:] not in browser.get(path).content.decode()
    assert secret[3:33] not in str(dump()) + caplog.text + str(dict(browser.session))
    assert "never shown again" in text_of(made)
    assert "192.0.2.0/24" in text_of(made)


def test_a_repeated_form_makes_no_second_token(browser: Client):
    browser.post(f"{TOKENS}new/", NEW)
    again = browser.post(f"{TOKENS}new/", NEW)
    assert again.status_code == 422
    assert "already has a token named Airflow" in text_of(again)
    assert Token.objects.count() == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": ""}, "This field is required"),
        ({"name": "n" * 101}, "The limit is 100 characters"),
        ({"days": "366"}, "less than or equal to 365"),
        ({"role": "manager"}, "manager is not one of the available choices"),
        ({"networks": "192.0.2.0/24\n10.0.0.300"}, "“10.0.0.300” is neither an address nor a network"),
        ({"credential": "nonsense"}, "not one of the available choices"),
    ],
)
def test_a_wrong_form_keeps_what_was_typed(wrong: dict[str, str], words: str, browser: Client):
    typed = NEW | {"name": "Nightly 7", "networks": "2001:db8::/32", "days": "44"} | wrong
    page = browser.post(f"{TOKENS}new/", typed)
    assert page.status_code == 422
    assert words in text_of(page)
    for name in ("name", "days", "networks"):
        assert typed[name] in page.content.decode()
    assert not Token.objects.exists()


def test_only_live_keys_of_the_team_are_offered(browser: Client, team: Team, other_team: Team):
    make_credential(team, name="Europe")
    make_credential(team, name="Gone", revoked_at=timezone.now())
    make_credential(other_team, name="South")
    page = browser.get(f"{TOKENS}new/").content.decode()
    assert "Europe, " in page
    assert "Gone" not in page
    assert "South" not in page


def test_a_row_says_who_uses_it_from_where(browser: Client, team: Team, mona: User, credential: Credential):
    used = {"last_used_at": timezone.now(), "last_used_ip": "192.0.2.7", "last_used_client": "ax/0.39"}
    token, _ = make_token(team, maker=mona, credential=credential, networks=["192.0.2.0/24"], **used)
    row = row_of(browser.get(TOKENS), token)
    for words in (f"ends in …{token.hint}", "made by mona@example.com", "working", "operator", "Production"):
        assert words in row
    for words in ("only from 192.0.2.0/24", "from 192.0.2.7", "ax/0.39"):
        assert words in row


def test_states_say_what_is_wrong_and_what_to_do(browser: Client, team: Team, mona: User, oli: User, vera: User):
    gone = make_credential(team, name="Old key", revoked_at=timezone.now())
    leaver = member(team, "leaver@example.com", TeamRole.OPERATOR)
    left, _ = make_token(team, name="Left", maker=leaver)
    Membership.objects.filter(user=leaver).delete()
    tokens = {
        "leaver@example.com is no longer an active member of the team. Replace it": left,
        "vera@example.com is now only a viewer of the team": make_token(team, name="Demoted", maker=vera)[0],
        "API key “Old key” was revoked. Replace it and choose another": make_token(team, name="K", credential=gone)[0],
        "The team has no API key. Add one": make_token(team, name="None")[0],
    }
    page = browser.get(TOKENS)
    for words, token in tokens.items():
        assert words in row_of(page, token)


def test_a_team_with_several_keys_needs_a_choice(browser: Client, team: Team):
    token, _ = make_token(team)
    make_credential(team)
    assert "working" in row_of(browser.get(TOKENS), token)
    make_credential(team, name="Second")
    assert "The team has 2 API keys. Replace it and choose one." in row_of(browser.get(TOKENS), token)


def test_the_form_says_what_no_choice_of_a_key_means(browser: Client, team: Team, credential: Credential):
    several = "None: requests are refused while there are several"
    assert several not in text_of(browser.get(f"{TOKENS}new/"))
    make_credential(team, name="Second")
    assert several in text_of(browser.get(f"{TOKENS}new/"))


def test_a_rejected_key_is_said(browser: Client, team: Team):
    token, _ = make_token(team, credential=make_credential(team, failing_since=timezone.now()))
    assert "Arize rejects its API key “Production”." in row_of(browser.get(TOKENS), token)


def test_ended_tokens_are_listed_apart_for_30_days(browser: Client, team: Team):
    now = timezone.now()
    gone, _ = make_token(team, name="Gone", revoked_at=now)
    over, _ = make_token(team, name="Over", expires_at=now - timedelta(minutes=1))
    make_token(team, name="Long ago", revoked_at=now - timedelta(days=31), expires_at=now - timedelta(days=40))
    page = browser.get(TOKENS)
    assert "revoked" in row_of(page, gone)
    assert "expired" in row_of(page, over)
    assert "Long ago" not in text_of(page)
    assert "Ended in the last 30 days (2)" in text_of(page)
    for token in (gone, over):
        for act in ("replace", "revoke"):
            assert browser.get(f"{TOKENS}{token.pk}/{act}/").status_code == 404


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=8), ""),
        (timedelta(days=5), "expires in 5 days"),
        (timedelta(hours=20), "expires in 20 h"),
        (timedelta(minutes=20), "expires in 20 min"),
    ],
)
def test_a_near_end_is_marked(left: timedelta, words: str, browser: Client, team: Team):
    with time_machine.travel(timezone.now(), tick=False):
        token, _ = make_token(team, expires_at=timezone.now() + left)
        row = row_of(browser.get(TOKENS), token)
    assert words in row
    assert ("expires in" in row) == bool(words)


def test_replacing_says_how_long_the_old_one_works(browser: Client, team: Team, mona: User, credential: Credential):
    old, secret = make_token(team, maker=mona)
    page = browser.post(f"{TOKENS}{old.pk}/replace/", {"hours": "24", "days": "30", "credential": ""})
    assert page.status_code == 200
    assert secret_in(page) != secret
    old.refresh_from_db()
    assert f"ending in …{old.hint}, works until" in text_of(page)
    listed = browser.get(TOKENS)
    assert "A newer token has replaced it" in row_of(listed, old)
    assert f"{old.pk}/replace/" not in listed.content.decode()
    assert browser.get(f"{TOKENS}{old.pk}/replace/").status_code == 404
    page = browser.post(f"{TOKENS}{old.pk}/revoke/")
    assert page.status_code == 302


def test_replacing_without_overlap_says_so(browser: Client, team: Team):
    old, _ = make_token(team)
    page = browser.post(f"{TOKENS}{old.pk}/replace/", {"hours": "0", "days": "30", "credential": ""})
    assert f"ending in …{old.hint}, no longer works" in text_of(page)


def test_replacing_keeps_the_key_unless_it_is_gone(browser: Client, team: Team, credential: Credential):
    token, _ = make_token(team, credential=credential)
    assert f'value="{credential.pk}" selected' in browser.get(f"{TOKENS}{token.pk}/replace/").content.decode()
    Credential.objects.update(revoked_at=timezone.now())
    page = browser.get(f"{TOKENS}{token.pk}/replace/")
    assert "selected" not in page.content.decode().split('name="credential"')[1].split("</select>")[0].split(">", 2)[2]
    assert "was revoked" in text_of(page)


def test_revoking_asks_and_needs_no_recent_sign_in(team: Team, mona: User, client_of: ClientOf):
    token, secret = make_token(team, maker=mona)
    with time_machine.travel(timezone.now() - timedelta(minutes=30)):
        browser = client_of(mona)
    assert browser.get(f"{TOKENS}new/").status_code == 302, "the control: making needs one"
    page = browser.get(f"{TOKENS}{token.pk}/revoke/")
    assert "stops working at once" in text_of(page)
    assert Token.objects.get().revoked_at is None
    answer = browser.post(f"{TOKENS}{token.pk}/revoke/", follow=True)
    assert f"Token “Airflow” (ends in …{secret[-4:]}) revoked" in text_of(answer)
    assert Token.objects.get().revoked_at is not None
    assert secret not in answer.content.decode()


def test_only_managers_see_the_page(team: Team, oli: User, mona: User, ada: User, client_of: ClientOf):
    make_token(team)
    assert client_of(oli).get(TOKENS).status_code == 403
    assert client_of(ada).get(TOKENS).status_code == 403
    assert "tokens/" not in client_of(oli).get("/teams/ops-north/runs/").content.decode()
    assert f'href="{TOKENS}"' in client_of(mona).get("/teams/ops-north/runs/").content.decode()


# --- The board


def board(browser: Client) -> str:
    return text_of(browser.get("/teams/ops-north/runs/"))


def test_the_board_warns_of_tokens_that_expire(browser: Client, team: Team, credential: Credential):
    token, _ = make_token(team, expires_at=timezone.now() + timedelta(days=5))
    assert "Airflow" not in board(browser)
    jobs.look_after_tokens()
    day = timezone.localtime(token.expires_at).date()
    assert f"Token “Airflow” expires on {day}: replace it before its scripts fail. Open tokens" in board(browser)
    make_token(team, name="CI", expires_at=timezone.now() + timedelta(days=6))
    jobs.look_after_tokens()
    assert f"2 tokens expire soon, the first on {day}: “Airflow”, “CI”." in board(browser)
    browser.post(f"{TOKENS}{token.pk}/replace/", {"hours": "24", "days": "30", "credential": ""})
    assert "Airflow" not in board(browser)


def test_the_board_says_which_tokens_stopped(browser: Client, team: Team, oli: User, vera: User, client_of: ClientOf):
    make_token(team, maker=oli)
    Membership.objects.filter(user=oli).delete()
    jobs.look_after_tokens()
    stopped = "Token “Airflow” does not work: oli@example.com is no longer an active member of the team."
    assert f"{stopped} Replace it. Open tokens" in board(browser)
    of_viewer = board(client_of(vera))
    assert f"{stopped} Replace it. A manager of the team can replace it." in of_viewer
    assert "Open tokens" not in of_viewer


def test_the_board_says_who_must_sign_in_for_a_token(
    browser: Client, team: Team, oli: User, settings: Any, credential: Credential
):
    token, _ = make_token(team, maker=oli)
    Membership.objects.filter(user=oli).update(by_groups=True)
    signed_in = timezone.now() - timedelta(days=settings.SESSION_MAX_DAYS) + timedelta(hours=20)
    User.objects.filter(pk=oli.pk).update(sso_signed_in_at=signed_in)
    jobs.look_after_tokens()
    assert "Token “Airflow” stops unless oli@example.com signs in by single sign-on before" in board(browser)
    assert "Stops unless oli@example.com signs in by single sign-on" in row_of(browser.get(TOKENS), token)


def test_the_run_page_names_the_token(browser: Client, run: Run, team: Team, mona: User):
    token, _ = make_token(team, maker=mona)
    Run.objects.update(status=Status.CANCELLED, rank=0)
    known = {"person_label": token.label, "reason": "nightly", "closed_at": timezone.now()}
    Cancellation.objects.create(run=run, token=token, outcome=Outcome.CONFIRMED, **known)
    page = text_of(browser.get(f"/teams/ops-north/runs/{run.pk}/"))
    assert "Airflow (made by mona@example.com)" in page
    assert "nightly" in page


def test_the_board_finds_runs_by_the_name_of_a_token(browser: Client, run: Run, team: Team, mona: User):
    token, _ = make_token(team, name="Airflow, nightly", maker=mona)
    other, _ = make_token(team, name="CI", maker=mona)
    for number, by in enumerate((token, other)):
        cancelled = make_run(run.task, status=Status.CANCELLED, arize_id=f"VGFza1J1bjo{number}")
        Cancellation.objects.create(
            run=cancelled, token=by, person_label=by.label, outcome=Outcome.CONFIRMED, closed_at=timezone.now()
        )
    for wanted in ("Airflow, nightly", "nightly", "airflow, NIGHTLY", token.label):
        page = browser.get("/teams/ops-north/runs/", {"cancelled_by": wanted}).content.decode()
        assert "VGFza1J1bjo0" in page, wanted
        assert "VGFza1J1bjo1" not in page, wanted
    started = browser.get("/teams/ops-north/runs/", {"started_by": "nightly"}).content.decode()
    assert "VGFza1J1bjo0" not in started


def test_the_page_leads_to_its_cancels_and_its_audit_rows(browser: Client, team: Team, mona: User, run: Run):
    token, _ = make_token(team, maker=mona)
    browser.post(f"{TOKENS}{token.pk}/revoke/")
    token, _ = make_token(team, name="R&D + more", maker=mona)
    links = re.findall(r'href="([^"]+)"', browser.get(TOKENS).content.decode().split(f'id="token-{token.pk}"')[1])
    cancels, log = (unescape(link) for link in links[:2])
    assert browser.get(cancels).status_code == 200
    assert browser.get(log).status_code == 200
    assert "R&D + more" in unescape(browser.get(cancels).content.decode())


# --- Members


def test_a_removal_says_which_tokens_stop(browser: Client, team: Team, oli: User):
    make_token(team, name="Nightly", maker=oli)
    page = text_of(browser.get("/teams/ops-north/members/"))
    assert "The token “Nightly” stops working at once, and so does the script that uses it." in page
    assert "a manager must first replace" in page


def test_a_lower_role_asks_first_if_tokens_would_stop(browser: Client, team: Team, oli: User):
    make_token(team, name="Nightly", maker=oli)
    make_token(team, name="Reads", maker=oli, role="viewer")
    path = f"/teams/ops-north/members/{oli.pk}/role/"
    asked = browser.post(path, {"role": "viewer"})
    assert asked.status_code == 200
    assert "The token “Nightly” stops working at once" in text_of(asked)
    assert "Reads" not in text_of(asked)
    assert Membership.objects.get(user=oli).role == "operator"
    assert not AuditEvent.objects.exists()
    assert browser.post(path, {"role": "manager"}).status_code == 302, "the control: nothing stops with this role"
    assert browser.post(path, {"role": "viewer", "confirmed": "1"}).status_code == 302
    assert Membership.objects.get(user=oli).role == "viewer"


def test_disabling_and_archiving_say_which_tokens_stop(team: Team, oli: User, adam: User, client_of: ClientOf):
    for name in ("A", "B", "C", "D"):
        make_token(team, name=name, maker=oli)
    browser = client_of(adam)
    page = text_of(browser.get(f"/people/{oli.pk}/disable/"))
    assert "The tokens “A”, “B”, “C” and 1 more stop working at once" in page
    assert "4 tokens stop working, and so do the scripts" in text_of(browser.get("/teams/ops-north/archive/"))
