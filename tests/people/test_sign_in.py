"""The sign-in page: no redirect outside, no unlimited guessing, and no answer that reveals an account."""

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from django.conf import settings
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from taskruns.models import Team, User
from taskruns.services.people import throttles
from tests.clients import ClientOf, sign_in
from tests.factories import PASSWORD
from tests.people.pages import TOKEN


def test_sign_in_creates_a_new_session(mona: User):
    client = Client()
    client.get("/accounts/login/")
    session = client.session
    session["before"] = "set by an attacker"
    session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    before = session.session_key
    assert sign_in(client, mona.email)["Location"] == "/"
    assert client.session.session_key != before
    assert client.get("/runs/").status_code == 200


def test_sign_in_redirects_to_next(mona: User, team: Team):
    target = "/teams/ops-north/runs/?status=failed"
    assert sign_in(Client(), mona.email, next=target)["Location"] == target


@pytest.mark.parametrize(
    "target",
    [
        *("https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "\\\\evil.example"),
        *("http:evil.example", "javascript:alert(1)", "https://localhost:8000@evil.example/", "\thttps://evil.example"),
        "http://localhost:8000.evil.example/",
    ],
)
def test_sign_in_never_redirects_outside(mona: User, target: str):
    for answer in (sign_in(Client(), mona.email, next=target), sign_in(Client(), mona.email, query=f"?next={target}")):
        where = urlsplit(answer["Location"])
        assert (answer.status_code, where.scheme, where.netloc) == (302, "", "")
        assert "evil" not in where.path
    signed_in = Client()
    sign_in(signed_in, mona.email)
    assert "evil" not in signed_in.get("/accounts/login/", {"next": target})["Location"]
    assert "evil" not in signed_in.post("/accounts/logout/", {"next": target})["Location"]


def failed_page(email: str, password: str = "wrong password 123") -> bytes:
    answer = sign_in(Client(), email, password)
    assert answer.status_code == 200
    return TOKEN.sub(b"", answer.content).replace(email.encode(), b"")


def test_failed_sign_in_does_not_reveal_accounts(mona: User, vera: User):
    User.objects.filter(pk=vera.pk).update(is_active=False)
    known = failed_page(mona.email)
    assert "not correct" in known.decode()
    assert failed_page("nobody@example.com") == known
    assert failed_page(vera.email) == known
    assert failed_page(vera.email) != failed_page(mona.email, "")  # control: another error looks different


def test_disabled_person_cannot_sign_in(vera: User):
    User.objects.filter(pk=vera.pk).update(is_active=False)
    client = Client()
    sign_in(client, vera.email)
    assert client.get("/runs/").status_code == 302


def test_guessing_is_throttled_by_account(mona: User):
    for number in range(5):
        Client(REMOTE_ADDR=f"192.0.2.{number}").post(
            "/accounts/login/", {"login": mona.email, "password": f"wrong {number}"}
        )
    late = Client(REMOTE_ADDR="192.0.2.99")
    answer = sign_in(late, mona.email)
    assert "Too many" in answer.content.decode()
    assert late.get("/runs/").status_code == 302


def test_throttle_counts_all_hosts_and_spellings_together(mona: User):
    hosts = ["localhost", "127.0.0.1", "LOCALHOST", "localhost:8000", "[::1]"]
    spellings = [mona.email, mona.email.upper(), f" {mona.email} ", mona.email.title(), mona.email]
    for number, (host, email) in enumerate(zip(hosts, spellings, strict=True)):
        guesser = Client(REMOTE_ADDR=f"192.0.2.{number}", headers={"Host": host})
        assert sign_in(guesser, email, "wrong").status_code == 200
    assert "Too many" in sign_in(Client(REMOTE_ADDR="192.0.2.99"), mona.email).content.decode()


def test_other_names_do_not_evict_an_accounts_count(mona: User):
    for number in range(5):
        sign_in(Client(REMOTE_ADDR=f"192.0.2.{number}"), mona.email, "wrong")
    # More than Django's default of 300 cache entries, as an attacker with many names and addresses would leave.
    for number in range(400):
        cache.set(f"made-up-name-{number}", [1.0], 300)
    assert "Too many" in sign_in(Client(REMOTE_ADDR="192.0.2.99"), mona.email).content.decode()


def test_expired_counts_are_deleted(db: None):
    cache.set("over", 1, 60)
    cache.set("holds", 1, 600)
    with time_machine.travel(timezone.now() + timedelta(seconds=120)):
        assert throttles.forget_expired() == 1
        assert cache.get("holds") == 1


def test_guessing_is_throttled_by_address(mona: User):
    client = Client(REMOTE_ADDR="192.0.2.1")
    statuses = [sign_in(client, f"guess{number}@example.com", "wrong").content for number in range(11)]
    assert b"Too many" in statuses[-1] or b"Too many" in sign_in(client, mona.email).content
    assert sign_in(Client(REMOTE_ADDR="192.0.2.2"), mona.email).status_code == 302


def test_forged_address_does_not_reset_the_throttle(mona: User):
    for number in range(11):
        forged = Client(headers={"X-Forwarded-For": f"203.0.113.{number}"})
        sign_in(forged, f"guess{number}@example.com", "wrong")
    assert sign_in(Client(headers={"X-Forwarded-For": "203.0.113.99"}), mona.email).status_code != 302


@pytest.mark.parametrize(
    "path",
    ["/accounts/signup/", "/accounts/password/reset/", "/accounts/email/", "/accounts/confirm-email/", "/admin/"],
)
def test_sign_up_is_closed(db: None, path: str):
    assert Client().get(path).status_code == 404
    fields = {"email": "new@example.com", "password1": PASSWORD, "password2": PASSWORD}
    assert Client().post(path, fields).status_code == 404
    assert not User.objects.exists()
    assert "signup" not in Client().get("/accounts/login/").content.decode()


def test_signing_out_needs_a_post(mona: User, client_of: ClientOf):
    client = client_of(mona)
    client.get("/accounts/logout/")
    assert client.get("/runs/").status_code == 200
    client.post("/accounts/logout/")
    assert client.get("/runs/").status_code == 302
    assert parse_qs(urlsplit(client.get("/runs/")["Location"]).query) == {"next": ["/runs/"]}
