"""Sessions: their limits, which polling does not extend, and the page that lists and ends them."""

import time
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError
from django.test import Client

from taskruns.audit import Actor
from taskruns.models import AuditEvent, PersonSession, Run, Team, User
from taskruns.services.people import accounts
from tests.clients import ClientOf, sign_in
from tests.factories import PASSWORD
from tests.stored import events
from tests.wire import run_url, wire_run

BOARD = "/teams/ops-north/runs/"
TABLE = f"{BOARD}table/"
POLL = {"HX-Request": "true"}
HOUR = 3_600.0


@pytest.fixture
def client(oli: User) -> Client:
    client = Client()
    sign_in(client, oli.email)
    return client


def after(hours: float) -> Any:
    return time_machine.travel(time.time() + hours * HOUR)


def test_idle_session_ends_after_twelve_hours(client: Client, oli: User):
    with after(11.9):
        assert client.get(BOARD).status_code == 200
    with after(23.8):
        assert client.get(BOARD).status_code == 200, "activity has extended it"
    with after(36):
        answer = client.get(BOARD)
        assert answer["Location"] == "/accounts/login/?next=%2Fteams%2Fops-north%2Fruns%2F"
        assert not PersonSession.objects.exists()
    row = AuditEvent.objects.latest("pk")
    assert (row.event, row.actor_label, row.details["why"]) == ("auth.session_end", oli.email, "idle")
    assert row.details["sessions"] == [row.session_ref]


@pytest.mark.parametrize("path", [TABLE, "/runs/table/", BOARD.replace("runs/", "runs/chart/")])
def test_polling_does_not_keep_an_idle_session_alive(client: Client, path: str):
    for hours in range(1, 12):
        with after(hours):
            assert client.get(path, headers=POLL).status_code in {200, 302}
    with after(12.1):
        answer = client.get(path, headers=POLL | {"HX-Current-URL": f"http://testserver{BOARD}"})
        assert answer.status_code == 401
        assert answer["HX-Redirect"].startswith("/accounts/login/")
    assert AuditEvent.objects.latest("pk").details["why"] == "idle"


def test_htmx_post_keeps_the_session_alive(client: Client, oli: User, run: Run, arize: Any):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    with after(11):
        client.post(f"{BOARD}{run.pk}/cancel/", {"confirmed": "1"}, headers=POLL)
    with after(13):
        assert client.get(BOARD).status_code == 200


def test_active_session_ends_after_seven_days(client: Client):
    for hours in range(8, 7 * 24, 8):
        with after(hours):
            assert client.get(BOARD).status_code == 200
    with after(7 * 24 + 0.1):
        assert client.get(BOARD).status_code == 302
    assert AuditEvent.objects.latest("pk").details["why"] == "age"


def test_session_limits_are_settings(client: Client, settings: Any):
    settings.SESSION_IDLE_HOURS = 1
    with after(1.1):
        assert client.get(BOARD).status_code == 302


def test_expired_session_ends_even_if_it_cannot_be_recorded(client: Client, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError

    monkeypatch.setattr("taskruns.services.people.sessions.record", refuse)
    with after(13):
        assert client.get(BOARD).status_code == 302
        assert client.post(f"{BOARD}00000000-0000-4000-8000-000000000000/cancel/").status_code == 302


def test_activity_is_stored_once_a_minute(client: Client):
    def seen() -> tuple[int, float]:
        """The value in the session's data, and the column that the sessions page shows."""
        return client.session["seen_at"], PersonSession.objects.get().seen_at.timestamp()

    first = seen()
    assert first[0] == first[1]
    with after(0.5 / 60):
        client.get(BOARD)
        assert seen() == first
    with after(1.5 / 60):
        client.get(TABLE, headers=POLL)
        assert seen() == first
        client.get(BOARD)
        assert seen()[0] == seen()[1] > first[0]


# --- The page


def test_person_sees_and_ends_their_sessions(client: Client, oli: User, vera: User):
    other = Client(headers={"User-Agent": "Another browser"}, REMOTE_ADDR="192.0.2.7")
    sign_in(other, oli.email)
    sign_in(Client(headers={"User-Agent": "Vera's browser"}), vera.email)
    page = client.get("/accounts/sessions/")
    text = page.content.decode()
    assert "Another browser" in text
    assert "192.0.2.7" in text
    assert "(this one)" in text
    assert "Vera" not in text
    assert not [key for key in PersonSession.objects.values_list("session_key", flat=True) if key in text]
    (row,) = (row for row in page.context["rows"] if not row.is_this)
    assert client.post(f"/accounts/sessions/{row.id}/end/")["Location"] == "/accounts/sessions/"
    assert other.get(BOARD).status_code == 302
    assert client.get(BOARD).status_code == 200
    ended = AuditEvent.objects.latest("pk")
    assert (ended.event, ended.details["why"], ended.details["sessions_ended"]) == ("auth.session_end", "asked", 1)


def test_ending_the_current_session_signs_out(client: Client):
    (row,) = client.get("/accounts/sessions/").context["rows"]
    answer = client.post(f"/accounts/sessions/{row.id}/end/", follow=True)
    assert (answer.status_code, answer.request["PATH_INFO"]) == (200, "/accounts/login/")
    assert client.get(BOARD).status_code == 302
    assert AuditEvent.objects.latest("pk").event == "auth.session_end"


def test_session_of_another_person_is_a_404(client: Client, vera: User):
    (row,) = client.get("/accounts/sessions/").context["rows"]
    theirs = Client()
    sign_in(theirs, vera.email)
    assert theirs.post(f"/accounts/sessions/{row.id}/end/").status_code == 404
    assert client.get(BOARD).status_code == 200
    assert ("access.denied", "denied") in events(chain="site", actor_label=vera.email)
    assert "auth.session_end" not in [event for event, _ in events()]


def test_all_other_sessions_end_together(client: Client, oli: User):
    others = [Client(), Client()]
    for other in others:
        sign_in(other, oli.email)
    client.post("/accounts/sessions/end-others/")
    assert {other.get(BOARD).status_code for other in others} == {302}
    assert client.get(BOARD).status_code == 200
    assert AuditEvent.objects.latest("pk").details["sessions_ended"] == 2


def test_new_password_ends_the_other_sessions(client: Client, oli: User):
    other = Client()
    sign_in(other, oli.email)
    new = "another battery staple"
    fields = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert client.post("/accounts/password/change/", fields).status_code == 302
    assert client.get(BOARD).status_code == 200
    assert other.get(BOARD).status_code == 302
    assert PersonSession.objects.count() == 1
    row = AuditEvent.objects.get(event="auth.password_change")
    assert row.details == {"sessions_ended": 1}


def test_next_poll_of_a_disabled_person_fails(client: Client, oli: User, adam: User, client_of: ClientOf):
    assert client.get(TABLE, headers=POLL).status_code == 200
    client_of(adam).post(
        f"/people/{oli.pk}/disable/", {"confirmed": "1", "name": "oli@example.com", "reason": "left the company"}
    )
    assert client.get(TABLE, headers=POLL).status_code == 401
    accounts.enable_person(oli, by=Actor.command())
    assert client.get(TABLE, headers=POLL).status_code == 401, "the old session stays ended"


def test_person_without_an_ip_address_can_sign_in(oli: User, team: Team):
    nowhere = Client(REMOTE_ADDR="")
    sign_in(nowhere, oli.email)
    assert nowhere.get("/accounts/sessions/").status_code == 200
