"""Strangers have no session row: the data of an unfinished sign-in are in their encrypted cookie, for a few minutes."""

import base64
import json
import secrets
import time
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import UpdateError
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.allauth_compat import PASSKEY_STATE, SSO_STATES
from taskruns.audit import Actor
from taskruns.models import AuditEvent, PersonSession, User, session_store
from taskruns.models.session_store import SessionStore
from taskruns.models.sessions import digest_of
from taskruns.services.people import accounts, sessions
from tests.clients import ClientOf, sign_in, with_app
from tests.factories import person
from tests.people.soft_passkey import SoftPasskey
from tests.queue_worker import every_hour, work
from tests.secret_search import database_dump
from tests.stored import dump

ALONE = "/accounts/login/passkey/"
STEP = "/accounts/login/second-factor/"
COOKIE = settings.SESSION_COOKIE_NAME
BY = Actor(type="command", label="tests")
MINUTE = 60


@pytest.fixture
def passkey(mona: User, client_of: ClientOf) -> SoftPasskey:
    passkey = SoftPasskey()
    client = client_of(mona)
    asked = client.get("/accounts/factors/passkey/").context["options"]
    made = {"name": "Blue key", "credential": passkey.create(asked)}
    assert client.post("/accounts/factors/passkey/", made).status_code == 200
    PersonSession.objects.all().delete()
    return passkey


def options(client: Client) -> Any:
    return client.get(ALONE, headers={"Accept": "application/json"}).json()["request_options"]


def cookie(client: Client) -> str:
    return client.cookies[COOKIE].value


def browser_with(value: str) -> Client:
    client = Client()
    client.cookies[COOKIE] = value
    return client


def is_in(client: Client) -> bool:
    return client.get("/runs/").status_code == 200


def page_after(client: Client, answer: Any) -> str:
    return client.get(answer["Location"]).content.decode()


def after(minutes: float) -> Any:
    return time_machine.travel(time.time() + minutes * MINUTE)


def cache_rows(part: str = "") -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM cache WHERE cache_key LIKE %s", [f"%{part}%"])
        return int(cursor.fetchone()[0])


# --- No row


def test_a_strangers_passkey_challenge_writes_no_row(passkey: SoftPasskey):
    before, cached = dump(), cache_rows()
    for _ in range(20):
        client = Client()
        assert options(client)["publicKey"]["challenge"]
        assert len(cookie(client)) < 400
    assert (dump(), cache_rows()) == (before, cached)
    client = browser_with(cookie(client))
    client.post(ALONE, {"credential": passkey.get(options(client))})
    assert PersonSession.objects.count() == 1, "the control: a person's session is a row"


def test_a_strangers_passkey_challenge_makes_no_query(db: None):
    with CaptureQueriesContext(connection) as captured:
        options(Client())
    assert captured.captured_queries == []


def test_the_cookie_reveals_none_of_its_data(passkey: SoftPasskey):
    client = Client()
    challenge = options(client)["publicKey"]["challenge"]
    value = cookie(client).removeprefix(session_store.DATA_PREFIX)
    inside = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    assert challenge not in value
    assert b"challenge" not in inside
    assert SessionStore(cookie(client))[PASSKEY_STATE]["challenge"] == challenge, "the control"


def test_a_sign_in_that_waits_for_its_second_factor_has_no_row(mona: User):
    code = with_app(mona)
    client = Client()
    assert sign_in(client, mona.email)["Location"] == STEP
    assert not PersonSession.objects.exists()
    assert int(client.cookies[COOKIE]["max-age"]) == session_store.STRANGER_LIFETIME
    assert client.post(STEP, {"code": code()})["Location"] == "/"
    assert PersonSession.objects.count() == 1
    assert int(client.cookies[COOKIE]["max-age"]) == settings.SESSION_COOKIE_AGE


def test_a_cookie_without_data_is_deleted(db: None):
    store = SessionStore()
    store["some"] = "thing"
    store.save()
    client = browser_with(store.session_key or "")
    with after(11):
        client.get("/accounts/login/")
        client.get(STEP)
    assert cookie(client) == ""


@pytest.mark.parametrize(
    "value", ["a.", "a.\\000bcdefgh", "a.gAAAAABm", "a." + "x" * 4_000, "b.cdefghij", "a.é", "x" * 4_000]
)
def test_a_cookie_that_is_not_ours_signs_nobody_in(value: str, db: None):
    client = Client(headers={"Cookie": f'{COOKIE}="{value}"'})
    for path in ("/runs/", "/accounts/login/", STEP):
        assert client.get(path).status_code in {200, 302}
    assert client.get("/runs/").status_code == 302


# --- The cookie expires


def test_a_late_passkey_answer_is_refused_with_an_explanation(passkey: SoftPasskey):
    for minutes, is_accepted in ((4.9, True), (5.1, False), (11, False)):
        client = Client()
        answer = passkey.get(options(client))
        with after(minutes):
            response = client.post(ALONE, {"credential": answer})
            assert is_in(client) is is_accepted, minutes
            assert ("took longer than 5 minutes" in page_after(client, response)) is not is_accepted


def test_a_late_second_factor_is_refused_with_an_explanation(mona: User):
    code = with_app(mona)
    client = Client()
    sign_in(client, mona.email)
    with after(10.1):
        answer = client.post(STEP, {"code": code()})
        assert answer["Location"] == "/accounts/login/"
        assert "took longer than 5 minutes" in page_after(client, answer)
        assert not is_in(client)


def test_saving_other_data_does_not_extend_a_challenge(db: None):
    client = Client()
    options(client)
    value = cookie(client)
    for minutes in (2, 4):
        with after(minutes):
            store = SessionStore(value)
            assert PASSKEY_STATE in store
            store["other"] = minutes
            store.save()
            value = store.session_key or ""
    with after(5.1):
        assert list(SessionStore(value).keys()) == ["other"]


def states(count: int, *, size: int = 0) -> dict[str, Any]:
    """States as allauth stores them for single sign-on, oldest first."""
    now = time.time()
    state = {"process": "login", "scope": ["openid", "profile", "email"], "nonce": secrets.token_urlsafe(24)}
    return {
        secrets.token_urlsafe(12): [
            state | {"asked_at": now, "pkce_code_verifier": secrets.token_urlsafe(48), "next": secrets.token_hex(size)},
            now - count + number,
            "oidc-0123456789",
        ]
        for number in range(count)
    }


def saved(**data: Any) -> str:
    store = SessionStore()
    for name, value in data.items():
        store[name] = value
    store.save()
    return store.session_key or ""


def test_ten_sso_states_fit_into_the_cookie(db: None):
    made = states(10)
    value = saved(**{SSO_STATES: made})
    assert len(value) < 3_000
    assert list(SessionStore(value)[SSO_STATES]) == list(made)


def test_the_oldest_sso_states_are_dropped_from_a_full_cookie(db: None):
    made = states(10, size=300)
    value = saved(**{SSO_STATES: made})
    assert len(value) <= session_store.LONGEST_COOKIE
    kept = list(SessionStore(value)[SSO_STATES])
    assert 1 <= len(kept) < 10
    assert kept == list(made)[-len(kept) :]


@pytest.mark.parametrize("long", ["a" * 900_000, "".join(map(str, range(2_000)))])
def test_data_too_long_for_the_cookie_are_dropped(long: str):
    assert list(SessionStore(saved(long=long, short="kept")).keys()) == ["short"]
    assert list(SessionStore(saved(long=long)).keys()) == []


# --- Replays


def test_a_used_challenge_cannot_be_replayed(passkey: SoftPasskey):
    client = Client()
    answer = passkey.get(options(client))
    stolen = cookie(client)
    client.post(ALONE, {"credential": answer})
    assert is_in(client)
    other = browser_with(stolen)
    response = other.post(ALONE, {"credential": answer})
    assert not is_in(other)
    assert "already used" in page_after(other, response)


def test_only_a_right_answer_uses_up_the_challenge(passkey: SoftPasskey):
    client = Client()
    right = passkey.get(options(client))
    kept = cookie(client)
    wrong = json.loads(right) | {"response": json.loads(right)["response"] | {"signature": "AAAA"}}
    for _ in range(5):
        browser_with(kept).post(ALONE, {"credential": json.dumps(wrong)})
    assert cache_rows("passkey.used") == 0
    browser_with(kept).post(ALONE, {"credential": right})
    assert cache_rows("passkey.used") == 1


# --- A copy of the database


def test_a_dump_of_the_database_contains_no_session_key(mona: User):
    client = Client()
    sign_in(client, mona.email)
    key = cookie(client)
    assert is_in(client)
    assert len(key) == session_store.KEY_LENGTH
    stored = database_dump()
    assert key not in stored
    assert digest_of(key) in stored, "the control"
    assert AuditEvent.objects.get(event="auth.sign_in").session_ref == digest_of(key)[:16]


def test_no_value_in_the_table_signs_in(mona: User):
    sign_in(Client(), mona.email)
    row = PersonSession.objects.get()
    tried = (row.session_key, row.session_key[:32], row.session_data, session_store.DATA_PREFIX + row.session_data)
    for value in tried:
        assert not is_in(browser_with(value))
    assert SessionStore().decode(row.session_data)[SESSION_KEY] == str(mona.pk), "the control: it is their session"


@pytest.mark.parametrize("whose", ["another person's", "an ended one of one's own"])
def test_data_copied_into_another_row_open_no_session(whose: str, mona: User, oli: User):
    """Someone who can write into the table gives a row the digest of a key that they know."""
    sign_in(Client(), mona.email)
    row = PersonSession.objects.get()
    mine = Client()
    sign_in(mine, (oli if whose.startswith("another") else mona).email)
    assert is_in(mine), "the control"
    PersonSession.objects.exclude(pk=row.pk).update(session_data=row.session_data, user=mona)
    assert not is_in(mine)


def test_a_row_reveals_only_its_plain_columns(mona: User):
    client = Client(headers={"User-Agent": "Firefox"}, REMOTE_ADDR="192.0.2.7")
    sign_in(client, mona.email)
    row = PersonSession.objects.get()
    assert (row.user, row.ip, row.user_agent) == (mona, "192.0.2.7", "Firefox")
    assert row.expire_date > timezone.now() + timedelta(days=6)
    assert mona.get_session_auth_hash() not in row.session_data


def test_a_strangers_cookie_never_signs_in(mona: User):
    """Even if it was encrypted with the panel's own key."""
    client = Client()
    sign_in(client, mona.email)
    made = {name: [value, time.time()] for name, value in client.session.items()}
    forged = browser_with(session_store.DATA_PREFIX + session_store._encrypt("cookie", made))
    assert not is_in(forged)


# --- Ended sessions stay ended


def test_a_request_does_not_revive_an_ended_session(mona: User):
    client = Client()
    sign_in(client, mona.email)
    store = SessionStore(cookie(client))
    store["late"] = "change"
    sessions.end_all(mona, by=BY)
    with pytest.raises(UpdateError):
        store.save()
    assert not PersonSession.objects.exists()


def test_no_session_begins_after_the_account_is_disabled(mona: User, monkeypatch: pytest.MonkeyPatch):
    """The account is disabled during the request that signs in."""
    monkeypatch.setattr(
        "taskruns.views.people.sign_in.audit.record_sign_in",
        lambda user, **_: accounts.disable_person(user, by=BY),
    )
    client = Client()
    sign_in(client, mona.email)
    assert not PersonSession.objects.exists()
    accounts.enable_person(mona, by=BY)
    assert not is_in(client)


# --- Sessions of other people


OTHERS = 20_000


def fill_sessions(count: int) -> None:
    """Live sessions of another person. Nothing can decrypt their data."""
    other = person("crowd@example.com")
    now = timezone.now()
    dates = {"expire_date": now + timedelta(days=7), "began_at": now, "seen_at": now}
    rows = (
        PersonSession(session_key=digest_of(str(number)), session_data="x" * 300, user=other, **dates)
        for number in range(count)
    )
    PersonSession.objects.bulk_create(rows, batch_size=2_000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def touching_sessions(captured: CaptureQueriesContext) -> list[str]:
    queries = [query["sql"] for query in captured.captured_queries]
    return [sql for sql in queries if "personsession" in sql and sql.startswith(("SELECT", "DELETE", "UPDATE"))]


def plan(sql: str) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {sql}".replace("%", "%%"))
        return "\n".join(str(row[-1]) for row in cursor.fetchall() if "personsession" in str(row[-1]))


def test_disabling_a_person_costs_the_same_among_many_sessions(vera: User, oli: User, monkeypatch: pytest.MonkeyPatch):
    for person_ in (vera, oli):
        for _ in range(3):
            sign_in(Client(), person_.email)
    with CaptureQueriesContext(connection) as alone:
        accounts.disable_person(vera, by=BY)
    fill_sessions(OTHERS)
    decoded: list[str] = []
    monkeypatch.setattr(SessionStore, "decode", lambda _self, text: decoded.append(text))
    with CaptureQueriesContext(connection) as among_many:
        accounts.disable_person(oli, by=BY)
    assert len(among_many) == len(alone)
    assert decoded == []
    assert AuditEvent.objects.latest("pk").details == {"sessions_ended": 3}
    assert PersonSession.objects.count() == OTHERS
    queries = touching_sessions(among_many)
    assert queries
    for sql in queries:
        assert "INDEX" in plan(sql).upper(), sql
        assert "SCAN taskruns_personsession" not in plan(sql), sql
    everything = "SELECT COUNT(*) FROM taskruns_personsession WHERE session_data = 'y'"
    assert "INDEX" not in plan(everything).upper(), "the control: a plan without an index looks different"


def test_expired_sessions_are_deleted_in_chunks(mona: User, empty_queue: None, monkeypatch: pytest.MonkeyPatch):
    fill_sessions(25)
    PersonSession.objects.update(expire_date=timezone.now())
    sign_in(Client(), mona.email)
    monkeypatch.setattr(sessions, "CHUNK", 5)
    monkeypatch.setattr(sessions, "MOST_AT_ONCE", 2)
    assert sessions.forget_expired()
    assert PersonSession.objects.count() == 16
    every_hour()
    work()
    assert [row.user for row in PersonSession.objects.all()] == [mona]
    assert not sessions.forget_expired()
