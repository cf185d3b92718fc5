"""Who was not let in: sign-ins, refusals, forged forms; one row a minute for those whom nobody knows."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.db import DatabaseError, transaction
from django.test import Client

from taskruns import jobs
from taskruns.audit import Actor, EventType
from taskruns.models import AnonymousTally, AuditEvent, Run, Team, User
from taskruns.services import audit

from .acts import dump
from .conftest import PASSWORD, ClientOf, accept_inserts, events, refuse_inserts
from .test_audit_chain import in_threads

LOGIN = "/accounts/login/"
WRONG = "wrong password 123"


def sign_in(email: str, password: str = PASSWORD, *, ip: str = "192.0.2.1", **headers: str) -> Any:
    client = Client(REMOTE_ADDR=ip, headers=headers)
    return client.post(LOGIN, {"login": email, "password": password})


def rows() -> list[tuple[str, str, str, str]]:
    found = AuditEvent.objects.order_by("pk").values_list("event", "outcome", "ip", "target_label")
    return [(event.removeprefix("auth."), outcome, ip, label) for event, outcome, ip, label in found]


def test_a_sign_in_names_person_way_address_and_session(mona: User):
    sign_in(mona.email, ip="192.0.2.7", **{"User-Agent": "Firefox"})
    row = AuditEvent.objects.get()
    assert (row.chain, row.event, row.outcome) == ("site", "auth.sign_in", "done")
    assert (row.actor_type, row.actor_id, row.actor_label) == ("user", str(mona.pk), mona.email)
    assert (row.ip, row.user_agent, row.auth_method) == ("192.0.2.7", "Firefox", "password")
    assert re.fullmatch(r"[0-9a-f]{16}", row.session_ref)


def test_the_rows_of_one_session_carry_one_mark_that_is_not_its_key(mona: User):
    client = Client()
    client.post(LOGIN, {"login": mona.email, "password": PASSWORD})
    key = client.session.session_key
    client.post("/accounts/logout/")
    came, went = AuditEvent.objects.order_by("pk")
    assert (went.event, went.outcome, went.actor_label) == ("auth.sign_out", "done", mona.email)
    assert came.session_ref == went.session_ref != ""
    assert key not in repr(dump(without=lambda table: table == "django_session"))


def test_a_failed_sign_in_names_the_account_only_if_there_is_one(mona: User):
    sign_in(mona.email.upper(), WRONG, ip="192.0.2.1")
    sign_in("no-such-person@example.com", WRONG, ip="192.0.2.2")
    assert rows() == [("sign_in", "failed", "192.0.2.1", mona.email), ("sign_in", "failed", "192.0.2.2", "")]
    assert {row.actor_type for row in AuditEvent.objects.all()} == {"anonymous"}


def test_what_was_typed_by_nobody_known_is_stored_nowhere(mona: User):
    """People type their password into the wrong field."""
    for typed in ("my secret password 77", "no-such-person@example.com"):
        sign_in(typed, typed)
    stored = repr(dump())
    assert "my secret password 77" not in stored
    assert "no-such-person" not in stored
    assert mona.email in stored


def test_a_throttled_sign_in_is_another_outcome(mona: User):
    for number in range(6):
        sign_in(mona.email, WRONG, ip=f"192.0.2.{number}")
    found = rows()
    assert [outcome for _, outcome, _, _ in found] == ["failed"] * 5 + ["throttled"]
    assert {label for *_, label in found} == {mona.email}


def test_a_wrong_old_password_changes_none_and_leaves_no_change(mona: User, client_of: ClientOf):
    fields = {"oldpassword": WRONG, "password1": "another battery staple", "password2": "another battery staple"}
    assert client_of(mona).post("/accounts/password/change/", fields).status_code == 200
    assert not events(event="auth.password_change")
    assert User.objects.get().check_password(PASSWORD)


def test_of_many_tries_within_a_minute_one_is_written_and_the_others_are_told_later(db: None):
    at = datetime.fromisoformat("2026-11-23T03:00:05+00:00")
    with time_machine.travel(at, tick=False) as clock:
        for _ in range(4):
            sign_in("guess@example.com", WRONG)
        sign_in("guess@example.com", WRONG, ip="192.0.2.2")
        assert rows() == [("sign_in", "failed", "192.0.2.1", ""), ("sign_in", "failed", "192.0.2.2", "")]
        assert audit.record_left_out() == 0, "the minute is not over"
        clock.shift(timedelta(minutes=1))
        sign_in("guess@example.com", WRONG)
        assert len(rows()) == 3, "a new minute, a new row"
        clock.shift(timedelta(minutes=1))
        jobs.look_after_audit.call_local()
        jobs.look_after_audit.call_local()
    told = AuditEvent.objects.get(details__has_key="left_out")
    assert (told.event, told.outcome, told.ip, told.actor_type) == ("auth.sign_in", "failed", "192.0.2.1", "anonymous")
    assert told.details == {"left_out": 3, "minute": "2026-11-23T03:00Z"}
    assert not AnonymousTally.objects.exists()


def test_the_page_tells_how_many_were_left_out(db: None, ada: User, client_of: ClientOf):
    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        for _ in range(3):
            sign_in("guess@example.com", WRONG)
    audit.record_left_out()
    text = client_of(ada).get("/audit/").content.decode()
    assert "2 more tries like the one before, from 192.0.2.1" in text
    assert "A sign-in failed: of nobody known here" in text


@pytest.mark.commits
def test_tries_at_once_are_one_row_and_none_is_lost(committed: None):
    by = Actor(type="anonymous", ip="192.0.2.9")

    def one(_: int) -> None:
        for _ in range(3):
            audit.record_denial(EventType.ACCESS_DENIED, by=by, team=None, view="x", path="/x/", method="GET")

    with time_machine.travel("2026-11-23T03:00:05Z", tick=False):
        in_threads(6, one)
    assert events() == [("access.denied", "denied")]
    in_threads(3, lambda _: audit.record_left_out())
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
    assert (row.target_id, row.target_label) == ("run-cancel", path)
    assert row.details == {"method": "POST", "why": "form token: CSRF cookie not set."}
    assert "not to be kept" not in repr(dump())


def test_what_the_other_side_sent_is_not_kept(team: Team, strict: Client):
    strict.post("/teams/ops-north/settings/", headers={"Origin": "https://evil.example"})
    assert AuditEvent.objects.get().details["why"] == "form token: Origin checking failed"
    assert "evil" not in repr(dump())


def test_a_form_of_an_outsider_or_of_nobody_is_told_in_the_sites_log(team: Team, otto: User):
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
    assert "mona@example.com was refused: /teams/ops-north/settings/ (form token: CSRF cookie not set.)" in text


# --- A denial stays a denial


@pytest.mark.parametrize("who", ["vera", "otto", "forged", "nobody"])
def test_a_denial_that_cannot_be_recorded_stays_one(
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


def test_the_right_of_the_test_to_fail(db: None):
    """The control of the one above: the trigger really refuses."""
    refuse_inserts("taskruns_auditevent")
    with pytest.raises(DatabaseError, match="refused by the test"), transaction.atomic():
        audit.record_sign_in(User(email="x@example.com"), by=Actor.command())
