"""Guessing at an account neither locks its person out nor reveals anything."""

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.core import mail, signing
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import AuditEvent, SignInCount, User
from taskruns.services.people import sign_in_limits
from taskruns.services.people.sign_in_limits import TooManyAttempts
from taskruns.views.people.sign_in_limits import for_strangers
from tests.clients import sign_in
from tests.factories import PASSWORD
from tests.people.pages import TOKEN
from tests.queue_worker import work
from tests.threads import NoPlace

pytestmark = pytest.mark.usefixtures("empty_queue")
COOKIE = settings.DEVICE_COOKIE_NAME
NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def from_address(address: str, **more: Any) -> Client:
    return Client(REMOTE_ADDR=address, **more)


def guess(email: str, times: int = 8, network: str = "198.51.100", seconds: float = 60) -> None:
    """Send wrong passwords, each from its own address, spread over the last `seconds`."""
    start = timezone.now() - timedelta(seconds=seconds)
    for number in range(times):
        with time_machine.travel(start + timedelta(seconds=seconds) * number / times, tick=False):
            sign_in(from_address(f"{network}.{number}"), email, f"wrong password {number}")


def known_browser(person: User) -> Client:
    """A known browser of the person, who is signed out now."""
    client = from_address("192.0.2.1")
    assert sign_in(client, person.email).status_code == 302
    client.post("/accounts/logout/")
    return client


def is_in(answer: HttpResponse) -> bool:
    return answer.status_code == 302


@pytest.mark.slow
def test_known_browser_signs_in_while_strangers_guess(mona: User):
    browser = known_browser(mona)
    guess(mona.email, times=56, seconds=7 * 60)
    assert not is_in(sign_in(from_address("192.0.2.99"), mona.email)), "the control: an unknown browser is refused"
    for _ in range(21):
        assert is_in(sign_in(browser, mona.email))
        browser.post("/accounts/logout/")


@pytest.mark.slow
def test_known_browser_works_at_the_same_address_as_the_guesses(mona: User):
    browser = known_browser(mona)
    for number in range(56):
        sign_in(from_address("192.0.2.1"), mona.email, f"wrong password {number}")
    assert is_in(sign_in(browser, mona.email))


def test_unknown_browser_is_refused_with_the_time_to_try_again(mona: User):
    with time_machine.travel(NOW, tick=False):
        guess(mona.email, times=5)
        answer = sign_in(from_address("192.0.2.99"), mona.email)
        assert not is_in(answer)
        text = answer.content.decode()
        shown = re.search(r"for this account. Try again at (\d\d:\d\d) UTC, or use a browser in which", text)
        assert shown is not None, text
        assert shown[1] == "03:04"  # the first of five was at 02:59
    with time_machine.travel(NOW + timedelta(minutes=4)):
        assert is_in(sign_in(from_address("192.0.2.99"), mona.email)), "and then it works"


def test_address_at_its_limit_is_refused_with_the_time_to_try_again(mona: User):
    with time_machine.travel(NOW, tick=False):
        client = from_address("192.0.2.9")
        for number in range(10):
            sign_in(client, f"guess{number}@example.com", "wrong password")
        assert "from your network. Try again at 03:01 UTC" in sign_in(client, mona.email).content.decode()
        assert is_in(sign_in(from_address("192.0.2.10"), mona.email))


def test_refusal_does_not_reveal_accounts(mona: User):
    pages = set()
    for email in (mona.email, "nobody@example.com"):
        with time_machine.travel(NOW, tick=False):
            guess(email, times=6)
            page = sign_in(from_address("192.0.2.99"), email).content
        pages.add(TOKEN.sub(b"", page).replace(email.encode(), b""))
    assert len(pages) == 1
    assert b"Too many" in pages.pop()


def test_refusal_runs_the_same_queries_for_every_account(mona: User):
    """Only the audit row looks up the account, and it is written in both cases."""
    seen = []
    for number, email in enumerate((mona.email, "nobody@example.com")):
        guess(email, times=6, seconds=60, network=f"198.51.{number}")
        with CaptureQueriesContext(connection) as queries:
            sign_in(from_address(f"192.0.2.{number}"), email)
        seen.append([query["sql"].split("(")[0][:30] for query in queries if "SAVEPOINT" not in query["sql"]])
    assert seen[0] == seen[1]
    assert len(seen[0]) > 5


def test_known_browser_signs_in_while_all_places_of_strangers_are_taken(mona: User, monkeypatch: Any):
    browser = known_browser(mona)
    monkeypatch.setattr(for_strangers, "_inside", NoPlace())
    assert sign_in(from_address("192.0.2.99"), mona.email).status_code == 429
    assert is_in(sign_in(browser, mona.email))


# --- Forged, stolen and old cookies


def forged(person: User) -> dict[str, str]:
    """Cookies that a stranger could make."""
    mark = person.get_session_auth_hash()[:16]
    marks = {str(person.pk): ["browser", mark]}
    good = signing.dumps(marks, salt="taskruns.browser")
    return {
        "nothing": "",
        "rubbish": "x" * 5_000,
        "NUL": "\0:\0:\0",
        "unsigned": signing.b64_encode(str(marks).encode()).decode(),
        "another key": signing.dumps(marks, key="k" * 50, salt="taskruns.browser"),
        "another purpose": signing.dumps(marks, salt="taskruns.invitation"),
        "changed": good[:-2] + ("aa" if good[-2:] != "aa" else "bb"),
    }


def test_forged_cookie_makes_no_known_browser(mona: User):
    guess(mona.email)
    for kind, value in forged(mona).items():
        client = from_address("203.0.113.7")
        client.cookies[COOKIE] = value
        answer = sign_in(client, mona.email)
        assert (answer.status_code, "Too many" in answer.content.decode()) == (200, True), kind


def test_signed_cookie_makes_a_known_browser(mona: User):
    guess(mona.email)
    client = from_address("203.0.113.7")
    mark = mona.get_session_auth_hash()[:16]
    client.cookies[COOKIE] = signing.dumps({str(mona.pk): ["browser", mark]}, salt="taskruns.browser")
    assert is_in(sign_in(client, mona.email))


def test_cookie_of_another_person_makes_no_known_browser(mona: User, vera: User):
    browser = known_browser(vera)
    guess(mona.email)
    assert not is_in(sign_in(browser, mona.email))


def test_guesses_from_a_known_browser_are_limited(mona: User):
    browser = known_browser(mona)
    for number in range(5):
        sign_in(browser, mona.email, f"wrong password {number}")
    answer = sign_in(browser, mona.email)
    assert (is_in(answer), "Too many" in answer.content.decode()) == (False, True)


def test_new_password_ends_the_cookie(mona: User):
    browser = known_browser(mona)
    mona.set_password("another battery staple")
    mona.save()
    guess(mona.email)
    assert not is_in(sign_in(browser, mona.email, "another battery staple"))


def test_changing_the_password_renews_the_cookie(mona: User):
    client = from_address("192.0.2.1")
    sign_in(client, mona.email)
    new = "another battery staple"
    client.post("/accounts/password/change/", {"oldpassword": PASSWORD, "password1": new, "password2": new})
    client.post("/accounts/logout/")
    guess(mona.email)
    assert is_in(sign_in(client, mona.email, new))


def test_cookie_expires_after_half_a_year(mona: User):
    browser = known_browser(mona)
    with time_machine.travel(timezone.now() + timedelta(days=181)):
        guess(mona.email)
        assert not is_in(sign_in(browser, mona.email))


def test_browser_remembers_the_last_five_people(cast: dict[str, Any]):
    browser = from_address("192.0.2.1")
    people = [person for person in cast.values() if person is not None]
    assert len(people) == 6
    for person in people:
        assert is_in(sign_in(browser, person.email))
        browser.post("/accounts/logout/")
    kept = signing.loads(browser.cookies[COOKIE].value, salt="taskruns.browser")
    assert list(kept) == [str(person.pk) for person in people[1:]]


def test_cookie_is_http_only_and_holds_no_email(mona: User):
    client = Client()
    sign_in(client, mona.email)
    cookie = client.cookies[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert mona.email not in cookie.value
    assert PASSWORD not in cookie.value


@pytest.mark.parametrize("login", ["mona\0@example.com", "", "x" * 100_000, "\N{ROCKET}", "%"], ids=len)
def test_odd_login_in_a_known_browser_is_no_500(mona: User, login: str):
    assert sign_in(known_browser(mona), login).status_code == 200


def test_cookie_signs_nobody_in(mona: User):
    browser = known_browser(mona)
    assert browser.get("/runs/").status_code == 302
    assert not is_in(sign_in(browser, mona.email, "wrong password 1"))


# --- Confirming one's identity


def test_strangers_cannot_keep_a_person_from_confirming(mona: User):
    client = from_address("192.0.2.1")
    sign_in(client, mona.email)
    guess(mona.email)
    assert client.post("/accounts/confirm/password/", {"password": PASSWORD}).status_code == 302


def test_guesses_in_a_stolen_session_are_limited(mona: User):
    client = from_address("192.0.2.1")
    sign_in(client, mona.email)
    for number in range(5):
        client.post("/accounts/confirm/password/", {"password": f"wrong password {number}"})
    answer = client.post("/accounts/confirm/password/", {"password": PASSWORD})
    assert (is_in(answer), "Too many" in answer.content.decode() or answer.status_code == 429) == (False, True)


# --- Reporting guesses


def waves() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(event="auth.sign_in", outcome="throttled", actor_type="job"))


def test_wave_of_guesses_is_reported_once_to_log_and_person(
    mona: User, settings: Any, caplog: pytest.LogCaptureFixture
):
    settings.MAILS = True
    browser = known_browser(mona)
    for round_ in range(3):
        guess(mona.email, network=f"198.51.{round_}")
        work()
    (row,) = waves()
    assert (row.chain, row.target_label, row.details) == ("site", mona.email, {"why": "guessing"})
    assert caplog.text.count("'event': 'sign_in_guessed'") == 1
    (message,) = mail.outbox
    assert message.to == [mona.email]
    assert "wrong passwords" in message.body
    sign_in(browser, mona.email)
    assert "tried many wrong passwords" in browser.get("/runs/").content.decode()
    browser.post("/accounts/logout/")
    sign_in(browser, mona.email)
    assert "tried many wrong passwords" not in browser.get("/runs/").content.decode()


def test_later_wave_of_guesses_is_reported_again(mona: User):
    guess(mona.email)
    work()
    with time_machine.travel(timezone.now() + timedelta(hours=2)):
        guess(mona.email)
        work()
    assert len(waves()) == 2


def test_mistyping_is_not_reported_as_guesses(mona: User):
    for number in range(6):
        sign_in(from_address("192.0.2.1"), mona.email, f"wrong password {number}")
    work()
    assert waves() == []


def test_guesses_at_an_unknown_account_are_not_reported(mona: User, settings: Any):
    settings.MAILS = True
    guess("nobody@example.com")
    work()
    assert waves() == []
    assert mail.outbox == []


# --- Counting


@pytest.mark.slow
def test_parallel_attempts_cannot_exceed_the_limit(committed: None):
    allowed: list[str] = []
    together = threading.Barrier(12)

    def attempt(number: int) -> None:
        try:
            together.wait(10)
            sign_in_limits.begin("mona@example.com", address=f"192.0.2.{number}")
            allowed.append("one")
        except TooManyAttempts:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(allowed) == sign_in_limits.ACCOUNT.attempts


def test_counting_an_attempt_reads_no_count(db: None):
    """Another attempt could change a count between its reading and its writing."""
    sign_in_limits.begin("mona@example.com", address="192.0.2.1")
    with CaptureQueriesContext(connection) as queries:
        sign_in_limits.begin("mona@example.com", address="192.0.2.1")
    assert {query["sql"].split()[0] for query in queries} == {"UPDATE"}


def test_all_spellings_of_an_account_share_its_count(db: None):
    """Whatever a database, or a version of allauth, may treat as the same address."""
    spellings = [
        "mona@example.com",
        " Mona@Example.COM ",
        "\uff4dona@example.com",
        "MONA@EXAMPLE.COM",
        "mona@example.com\t",
    ]
    for number, login in enumerate(spellings):
        sign_in_limits.begin(login, address=f"192.0.2.{number}")
    with pytest.raises(TooManyAttempts):
        sign_in_limits.begin("mona@example.com", address="192.0.2.99")


def test_right_passwords_do_not_count(mona: User):
    for number in range(30):
        assert is_in(sign_in(from_address("192.0.2.1"), mona.email)), number


@pytest.mark.slow
def test_slow_guesses_from_one_address_are_limited(mona: User):
    """Five attempts in five minutes would allow 60 in an hour."""
    with time_machine.travel(NOW) as clock:
        for number in range(30):
            sign_in(from_address("192.0.2.1"), mona.email, f"wrong password {number}")
            clock.shift(timedelta(seconds=75))
        assert not is_in(sign_in(from_address("192.0.2.1"), mona.email))
        clock.shift(timedelta(minutes=5))
        assert is_in(sign_in(from_address("192.0.2.2"), mona.email))


def test_a_refused_guess_does_not_count_against_its_network(mona: User, vera: User):
    """Otherwise guesses at one account would lock everyone out who shares the address."""
    for number in range(15):
        sign_in(from_address("192.0.2.7"), mona.email, f"wrong password {number}")
    assert is_in(sign_in(from_address("192.0.2.7"), vera.email))


def test_ipv6_addresses_of_one_household_count_together(mona: User):
    for number in range(10):
        sign_in(from_address(f"2001:db8:1:2::{number}"), f"guess{number}@example.com", "wrong password")
    assert "Too many" in sign_in(from_address("2001:db8:1:2:3:4:5:6"), mona.email).content.decode()
    assert is_in(sign_in(from_address("2001:db8:1:3::1"), mona.email))


def test_counts_contain_no_text_and_are_deleted(mona: User):
    guess(mona.email, times=3)
    guess("typed secret@example.com", times=1)
    assert SignInCount.objects.exists()
    assert {len(row.bucket) for row in SignInCount.objects.all()} == {64}
    with time_machine.travel(timezone.now() + timedelta(hours=2)):
        assert sign_in_limits.forget_expired() > 0
    assert not SignInCount.objects.exists()
