"""Sign-ins, denials and forged forms. Anonymous attempts get one row per minute."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.db import DatabaseError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from taskruns import jobs
from taskruns.access.denials import SECRETS
from taskruns.audit import Actor, EventType
from taskruns.models import AnonymousTally, AuditEvent, Run, Team, User
from taskruns.services import audit
from taskruns.services.audit import Attempt
from taskruns.services.audit.denials import NAMED_A_MINUTE, ROWS_A_MINUTE
from tests.clients import ClientOf
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import PASSWORD, make_credential
from tests.stage import Stage
from tests.stored import dump, events
from tests.threads import in_threads
from tests.urlconf import url_names, wanted

LOGIN = "/accounts/login/"
WRONG = "wrong password 123"


def sign_in(email: str, password: str = PASSWORD, *, ip: str = "192.0.2.1", **headers: str) -> Any:
    client = Client(REMOTE_ADDR=ip, headers=headers)
    return client.post(LOGIN, {"login": email, "password": password})


def rows() -> list[tuple[str, str, str, str]]:
    found = AuditEvent.objects.order_by("pk").values_list("event", "outcome", "ip", "target_label")
    return [(event.removeprefix("auth."), outcome, ip, label) for event, outcome, ip, label in found]


def test_a_sign_in_records_person_method_address_and_session(mona: User):
    sign_in(mona.email, ip="192.0.2.7", **{"User-Agent": "Firefox"})
    row = AuditEvent.objects.get()
    assert (row.chain, row.event, row.outcome) == ("site", "auth.sign_in", "done")
    assert (row.actor_type, row.actor_id, row.actor_label) == ("user", str(mona.pk), mona.email)
    assert (row.ip, row.user_agent, row.auth_method) == ("192.0.2.7", "Firefox", "password")
    assert re.fullmatch(r"[0-9a-f]{16}", row.session_ref)


def test_rows_of_a_session_share_a_reference_that_is_not_its_key(mona: User):
    client = Client()
    client.post(LOGIN, {"login": mona.email, "password": PASSWORD})
    key = client.session.session_key
    client.post("/accounts/logout/")
    came, went = AuditEvent.objects.order_by("pk")
    assert (went.event, went.outcome, went.actor_label) == ("auth.sign_out", "done", mona.email)
    assert came.session_ref == went.session_ref != ""
    assert key not in repr(dump())


def test_a_failed_sign_in_names_the_account_only_if_there_is_one(mona: User):
    sign_in(mona.email.upper(), WRONG, ip="192.0.2.1")
    sign_in("no-such-person@example.com", WRONG, ip="192.0.2.2")
    assert rows() == [("sign_in", "failed", "192.0.2.1", mona.email), ("sign_in", "failed", "192.0.2.2", "")]
    assert {row.actor_type for row in AuditEvent.objects.all()} == {"anonymous"}


def test_an_unknown_login_is_not_stored(mona: User):
    """People type their password into the wrong field."""
    for typed in ("my secret password 77", "no-such-person@example.com"):
        sign_in(typed, typed)
    stored = repr(dump())
    assert "my secret password 77" not in stored
    assert "no-such-person" not in stored
    assert mona.email in stored


def test_a_throttled_sign_in_has_its_own_outcome(mona: User):
    for number in range(6):
        sign_in(mona.email, WRONG, ip=f"192.0.2.{number}")
    found = rows()
    assert [outcome for _, outcome, _, _ in found] == ["failed"] * 5 + ["throttled"]
    assert {label for *_, label in found} == {mona.email}


def test_a_wrong_old_password_changes_nothing(mona: User, client_of: ClientOf):
    fields = {"oldpassword": WRONG, "password1": "another battery staple", "password2": "another battery staple"}
    assert client_of(mona).post("/accounts/password/change/", fields).status_code == 200
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome, row.actor_label) == ("auth.password_change", "denied", mona.email)
    assert row.details["why"] == "wrong current password"
    assert WRONG not in repr(dump())
    assert User.objects.get().check_password(PASSWORD)
    new = {"oldpassword": PASSWORD, "password1": "short", "password2": "short"}
    client_of(mona).post("/accounts/password/change/", new)
    assert AuditEvent.objects.count() == 1, "a new password that is too short is not a sign of an attack"


def test_each_failed_identity_confirmation_is_recorded(mona: User, ada: User, client_of: ClientOf):
    """Someone else may be using an unattended session, so the log must name the session and its person."""
    client = client_of(mona)
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for _ in range(7):
            client.post("/accounts/confirm/password/", {"password": WRONG})
    found = list(AuditEvent.objects.order_by("pk"))
    assert [row.outcome for row in found] == ["failed"] * 5 + ["throttled"] * 2, "each attempt is one row"
    assert {(row.chain, row.event, row.actor_type, row.actor_id) for row in found} == {
        ("site", "auth.sign_in", "user", str(mona.pk))
    }
    assert {row.target_label for row in found} == {mona.email}
    assert {len(row.session_ref) for row in found} == {16}
    assert not AnonymousTally.objects.exists()
    text = client_of(ada).get("/audit/").content.decode()
    assert "mona@example.com failed to confirm their identity" in text
    assert WRONG not in repr(dump())


def test_attempts_within_a_minute_are_one_row_and_a_later_count(db: None):
    at = datetime.fromisoformat("2026-11-23T03:00:05+00:00")
    with time_machine.travel(at, tick=False) as clock:
        for _ in range(4):
            sign_in("guess@example.com", WRONG)
        sign_in("guess@example.com", WRONG, ip="192.0.2.2")
        assert rows() == [("sign_in", "failed", "192.0.2.1", ""), ("sign_in", "failed", "192.0.2.2", "")]
        assert audit.record_suppressed() == 0, "the minute is not over"
        clock.shift(timedelta(minutes=1))
        sign_in("guess@example.com", WRONG)
        assert len(rows()) == 3, "a new minute, a new row"
        clock.shift(timedelta(minutes=1))
        jobs.look_after_audit()
        jobs.look_after_audit()
    row = AuditEvent.objects.get(details__has_key="left_out")
    assert (row.event, row.outcome, row.ip, row.actor_type) == ("auth.sign_in", "failed", "192.0.2.1", "anonymous")
    assert row.details == {"left_out": 3, "minute": "2026-11-23T03:00Z"}
    assert not AnonymousTally.objects.exists()


def test_the_page_shows_how_many_attempts_were_suppressed(db: None, ada: User, client_of: ClientOf):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for _ in range(3):
            sign_in("guess@example.com", WRONG)
    audit.record_suppressed()
    text = client_of(ada).get("/audit/").content.decode()
    assert "2 more attempts of the same kind from 192.0.2.1" in text
    assert "Failed sign-in: unknown account" in text


def attempt(ip: str) -> None:
    by = Actor(type="anonymous", ip=ip)
    audit.record_denial(EventType.ACCESS_DENIED, Attempt("x", "/x/", "GET"), by=by, team=None)


def suppressed() -> list[tuple[str, int]]:
    found = AuditEvent.objects.filter(details__has_key="left_out").order_by("pk")
    return [(row.ip, row.details["left_out"]) for row in found]


@pytest.mark.parametrize(
    ("addresses", "network"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:DB8:1:2:0:0:0:3"], "2001:db8:1:2::/64"),
        (["::ffff:192.0.2.7", "192.0.2.7", "::ffff:c000:207"], "192.0.2.7"),
        (["", "no address", ""], ""),
    ],
)
def test_one_network_is_one_row(db: None, addresses: list[str], network: str):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for address in addresses:
            attempt(address)
        attempt("2001:db8:1:3::1")
        attempt("192.0.2.8")
    assert AuditEvent.objects.count() == 3
    audit.record_suppressed()
    assert suppressed() == [(network, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "rows_now", "rows_later"),
    [("2001:db8::{:x}", 1, 1), ("2001:db8:0:{:x}::1", ROWS_A_MINUTE, 1), ("::ffff:0:{:x}", ROWS_A_MINUTE, 1)],
)
def test_a_thousand_addresses_are_few_rows(db: None, address: str, rows_now: int, rows_later: int):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for number in range(1, 1_001):
            attempt(address.format(number))
        assert AuditEvent.objects.count() == rows_now
        assert AnonymousTally.objects.count() <= ROWS_A_MINUTE + 1
    audit.record_suppressed()
    assert AuditEvent.objects.count() == rows_now + rows_later
    assert sum(count for _ip, count in suppressed()) + rows_now == 1_000, "every attempt is counted"


def test_the_counts_of_a_minute_are_few_rows_too(db: None):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for number in range(ROWS_A_MINUTE + 5):
            for _ in range(2 + (number == 7)):
                attempt(f"192.0.2.{number}")
    audit.record_suppressed()
    found = suppressed()
    assert len(found) == NAMED_A_MINUTE + 1
    assert found[0] in {("192.0.2.7", 2), ("", ROWS_A_MINUTE - NAMED_A_MINUTE + 10)}
    assert dict(found)["192.0.2.7"] == 2, "the most attempts are named first"
    assert sum(count for _ip, count in found) == ROWS_A_MINUTE + 11
    assert not AnonymousTally.objects.exists()


def test_a_known_network_is_counted_beyond_the_limit(db: None):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for number in range(ROWS_A_MINUTE + 1):
            attempt(f"192.0.2.{number}")
        for _ in range(9):
            attempt("192.0.2.3")
    with time_machine.travel("2026-11-23T03:01:05Z", tick=False):
        attempt("192.0.2.99")
    assert AuditEvent.objects.count() == ROWS_A_MINUTE + 1, "a new minute, a new row"
    audit.record_suppressed()
    assert sorted(suppressed()) == [("", 1), ("192.0.2.3", 9)]


@pytest.mark.commits
def test_concurrent_attempts_are_one_row_and_all_are_counted(committed: None):
    by = Actor(type="anonymous", ip="192.0.2.9")

    def one(_: int) -> None:
        for _ in range(3):
            audit.record_denial(EventType.ACCESS_DENIED, Attempt("x", "/x/", "GET"), by=by, team=None)

    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        in_threads(6, one)
    assert events() == [("access.denied", "denied")]
    in_threads(3, lambda _: audit.record_suppressed())
    assert AuditEvent.objects.get(seq=2).details["left_out"] == 17
    assert AuditEvent.objects.count() == 2


# --- Forms that did not come from the panel


@pytest.fixture
def strict(mona: User) -> Client:
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost:8000"})
    client.force_login(mona, backend=settings.AUTHENTICATION_BACKENDS[0])
    return client


def test_a_form_without_its_token_is_a_denial_in_the_teams_log(team: Team, run: Run, strict: Client, mona: User):
    path = f"/teams/ops-north/runs/{run.pk}/cancel/"
    assert strict.post(path, {"reason": "not to be kept"}).status_code == 403
    row = AuditEvent.objects.get()
    assert (row.chain, row.event, row.outcome) == (f"team:{team.pk}", "access.denied", "denied")
    assert (row.actor_label, row.actor_role) == (mona.email, "manager")
    assert (row.target_type, row.target_id, row.run_id) == ("run", str(run.pk), run.arize_id)
    assert row.details == {
        "page": "run-cancel",
        "path": path,
        "method": "POST",
        "why": "form token: CSRF cookie not set.",
    }
    assert "not to be kept" not in repr(dump())


def test_what_the_client_sent_is_not_stored(team: Team, strict: Client):
    strict.post("/teams/ops-north/settings/", headers={"Origin": "https://evil.example"})
    assert AuditEvent.objects.get().details["why"] == "form token: Origin checking failed"
    assert "evil" not in repr(dump())


def test_a_form_of_an_outsider_or_stranger_is_in_the_sites_log(team: Team, otto: User):
    client = Client(enforce_csrf_checks=True)
    client.post("/teams/ops-north/settings/")
    client.post("/teams/ops-north/archive/")
    assert events(chain="site", actor_type="anonymous") == [("access.denied", "denied")]
    client.force_login(otto, backend=settings.AUTHENTICATION_BACKENDS[0])
    client.post("/teams/ops-north/settings/")
    assert events(chain="site", actor_label=otto.email) == [("access.denied", "denied")]
    assert not events(chain=f"team:{team.pk}")
    assert Client().post("/teams/ops-north/settings/").status_code == 302, "the control: it was the token"


def test_the_page_says_why_a_form_was_refused(team: Team, strict: Client, mona: User, client_of: ClientOf):
    strict.post("/teams/ops-north/settings/")
    text = client_of(mona).get("/teams/ops-north/audit/").content.decode()
    assert "mona@example.com was refused access: /teams/ops-north/settings/ (form token: CSRF cookie not set.)" in text


# --- Headers the client can set

HTMX = {"HX-Request": "true", "HX-Current-URL": "http://localhost:8000/teams/ops-north/runs/"}


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
def test_a_post_without_session_is_recorded_and_a_poll_is_not(headers: dict[str, str], team: Team, run: Run):
    client = Client(headers={"host": "localhost:8000"} | headers)
    for path in ("runs/", "runs/table/", f"runs/{run.pk}/", "audit/", "audit/export.jsonl"):
        assert client.get(f"/teams/ops-north/{path}").status_code in {302, 401}
        client.head(f"/teams/ops-north/{path}")
    assert not AuditEvent.objects.exists(), "open pages keep polling"
    path = f"/teams/ops-north/runs/{run.pk}/cancel/"
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for _ in range(3):
            assert client.post(path, {"reason": "not to be kept"}).status_code == (401 if headers else 302)
    row = AuditEvent.objects.get()
    assert (row.chain, row.event, row.outcome, row.actor_type) == ("site", "run.cancel", "denied", "anonymous")
    assert row.details == {"page": "run-cancel", "path": path, "method": "POST", "why": "not signed in"}
    assert AnonymousTally.objects.get().left_out == 2
    assert "not to be kept" not in repr(dump())
    client.post("/accounts/profile/", {"name": "x"})
    assert AuditEvent.objects.get(seq=2).details["page"] == "profile", "also pages open to every account"


# --- The target of a denial


def test_a_denial_on_a_run_is_in_the_history_of_the_run(
    team: Team, run: Run, vera: User, mona: User, client_of: ClientOf
):
    client_of(vera).post(f"/teams/ops-north/runs/{run.pk}/cancel/")
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome) == ("run.cancel", "denied")
    assert (row.target_type, row.target_id, row.target_label) == ("run", str(run.pk), run.task.name)
    assert (row.run_id, row.task_id, row.endpoint) == (run.arize_id, run.task.arize_id, run.endpoint)
    assert row.credential_id == run.task.credential_id
    sentence = f"vera@example.com tried to cancel a run without permission: {run.task.name}"
    for path in (
        f"/teams/ops-north/audit/?run={run.arize_id}",
        f"/teams/ops-north/audit/?key={run.task.credential_id}",
        f"/teams/ops-north/runs/{run.pk}/",
    ):
        assert sentence in client_of(mona).get(path).content.decode()


def test_a_denial_on_a_key_names_the_key(team: Team, run: Run, vera: User, client_of: ClientOf):
    key = run.task.credential
    assert key is not None
    client_of(vera).post(f"/teams/ops-north/credentials/{key.pk}/test/")
    row = AuditEvent.objects.get()
    assert (row.event, row.target_type, row.target_id, row.target_label) == (
        "credential.test",
        "credential",
        str(key.pk),
        key.name,
    )
    assert row.credential_id == key.pk


def test_ids_of_another_team_stay_hidden(
    team: Team, other_team: Team, run: Run, otto: User, vera: User, client_of: ClientOf
):
    south = make_credential(other_team)
    client_of(otto).post(f"/teams/ops-south/runs/{run.pk}/cancel/")
    client_of(vera).post(f"/teams/ops-north/credentials/{south.pk}/revoke/")
    assert {row.target_type for row in AuditEvent.objects.all()} == {"page"}
    assert not AuditEvent.objects.exclude(run_id="", task_id="", endpoint="", credential_id=None).exists()
    assert run.arize_id not in repr(list(AuditEvent.objects.values()))
    assert south.name not in repr(list(AuditEvent.objects.values()))


# --- Links with tokens


def test_tokens_in_urls_are_not_recorded(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """Valid and invalid links, all methods, signed in or not. A refused token may have been valid before."""
    urls = [name for name in url_names() if SECRETS & set(wanted(name))]
    assert urls == ["account_reset_password_from_key", "hook", "invitation"]
    good = [stage.token, f"{stage.token}x"]
    for name in urls:
        for token in good:
            others = {"uidb36": "abc"} if name == "account_reset_password_from_key" else {}
            path = reverse(name, kwargs={next(iter(SECRETS & set(wanted(name)))): token} | others)
            for strict_ in (True, False):
                for who in ("", "vera"):
                    client = Client(enforce_csrf_checks=strict_)
                    if who:
                        client.force_login(stage.people[who], backend=settings.AUTHENTICATION_BACKENDS[0])
                    client.get(path)
                    client.post(path, {"name": "x", "password1": "y", "password2": "y"})
                    client.put(path)
    denials = AuditEvent.objects.filter(outcome="denied")
    assert {row.details["path"] for row in denials} == {
        "/invitations/<token>/",
        "/accounts/password/reset/key/<uidb36>-<key>/",
    }
    assert events(outcome="denied", actor_type="anonymous") == [
        ("access.denied", "denied"),
        ("invitation.accept", "denied"),
    ]
    log_text = repr(list(AuditEvent.objects.values()))
    assert stage.token not in log_text
    assert stage.token.split(":")[-1] not in log_text
    assert stage.invitation.email in log_text, "the control: the invited person is in the log"


def test_using_someone_elses_link_is_in_the_sites_log(stage: Stage):
    path = f"/invitations/{stage.token}/"
    assert stage.client("vera").get(path).status_code == 200
    assert not events(outcome="denied"), "a GET is not an attempt"
    assert stage.client("vera").post(path).status_code == 422
    row = AuditEvent.objects.get(outcome="denied")
    assert (row.chain, row.event, row.actor_label) == ("site", "invitation.accept", "vera@example.com")
    assert (row.target_type, row.target_label) == ("invitation", "stranger@example.com")
    assert row.details["why"] == "invitation for another person"


# --- allauth's throttle


@pytest.mark.slow
def test_throttled_attempts_are_recorded_everywhere(mona: User, client_of: ClientOf):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        answers = [sign_in(f"nobody{number}@example.com", WRONG) for number in range(40)]
        assert [answer.status_code for answer in answers].count(429) > 0
        assert "too many attempts" in answers[-1].content.decode()
        client = client_of(mona)
        fields = {"oldpassword": WRONG, "password1": "x", "password2": "x"}
        codes = [client.post("/accounts/password/change/", fields).status_code for _ in range(8)]
    assert codes == [200] * 5 + [429] * 3
    left_out = dict(AnonymousTally.objects.values_list("outcome", "left_out"))
    assert left_out["failed"] + left_out["throttled"] + 2 == len(answers), "each attempt is one row"
    whys = AuditEvent.objects.filter(event="auth.password_change", outcome="denied").values_list(
        "details__why", flat=True
    )
    assert list(whys.order_by("pk")) == ["wrong current password"] * 5 + ["too many attempts"] * 3


def test_a_throttled_attempt_stays_refused_if_unrecorded(mona: User, client_of: ClientOf):
    refuse_inserts("taskruns_auditevent")
    client = client_of(mona)
    fields = {"oldpassword": WRONG, "password1": "x", "password2": "x"}
    codes = [client.post("/accounts/password/change/", fields).status_code for _ in range(6)]
    assert codes == [200] * 5 + [429]


# --- A denial stays a denial


@pytest.mark.parametrize("who", ["vera", "otto", "forged", "nobody"])
def test_a_denial_stays_a_denial_if_unrecorded(
    who: str, team: Team, vera: User, otto: User, strict: Client, client_of: ClientOf, caplog: pytest.LogCaptureFixture
):
    asks = {
        "vera": lambda: client_of(vera).get("/teams/ops-north/credentials/"),
        "otto": lambda: client_of(otto).get("/teams/ops-north/runs/"),
        "forged": lambda: strict.post("/teams/ops-north/settings/"),
        "nobody": lambda: Client(enforce_csrf_checks=True).post("/teams/ops-north/settings/"),
    }
    refuse_inserts("taskruns_auditevent")
    refused = asks[who]().status_code
    assert refused in {403, 404}
    assert "denial_not_recorded" in caplog.text
    assert not AuditEvent.objects.exists()
    assert not AnonymousTally.objects.exists()
    accept_inserts("taskruns_auditevent")
    assert asks[who]().status_code == refused
    assert events() == [("access.denied", "denied")]


def test_inserts_fail_in_the_test_above(db: None):
    """The control of the test above: the trigger refuses the insert."""
    refuse_inserts("taskruns_auditevent")
    with pytest.raises(DatabaseError, match="refused by the test"), transaction.atomic():
        audit.record_sign_in(User(email="x@example.com"), by=Actor.command())


@pytest.mark.parametrize("event", [("made.up", "denied"), ("access.denied", "made up")], ids=str)
def test_a_tally_written_by_hand_holds_up_no_other_minute(event: tuple[str, str], db: None):
    long_ago = timezone.now() - timedelta(hours=2)
    made_up = dict(zip(("event", "outcome"), event, strict=True))
    AnonymousTally.objects.create(**made_up, ip="192.0.2.1", minute=long_ago, left_out=4)
    later = long_ago + timedelta(minutes=1)
    AnonymousTally.objects.create(event="access.denied", outcome="denied", minute=later, left_out=3)
    jobs.look_after_audit()
    assert [row.details["left_out"] for row in AuditEvent.objects.all()] == [3]
