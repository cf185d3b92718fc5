"""Many sign-ins at the same moment leave threads and CPU time of the web server free."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from allauth.core import ratelimit
from allauth.core.internal.ratelimit import SingleRateLimitUsage
from django.contrib.auth.hashers import MD5PasswordHasher
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.test import Client

from taskruns.models import AuditEvent, User
from taskruns.views.people import sign_in_limits
from tests.clients import sign_in
from tests.factories import PASSWORD, person
from tests.threads import NoPlace, in_threads

WRONG = "wrong password 123"


class Hashes:
    """Makes each password hash wait for `may_go`. `most`: how many ran at once."""

    def __init__(self) -> None:
        self.running = self.most = self.done = 0
        self.lock, self.two_run, self.may_go = threading.Lock(), threading.Event(), threading.Event()

    def run(self) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running == 2:
                self.two_run.set()
        self.may_go.wait(timeout=30)
        with self.lock:
            self.running -= 1
            self.done += 1


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hashes]:
    hashes, real = Hashes(), MD5PasswordHasher.encode

    def encode(self: MD5PasswordHasher, password: str, salt: str) -> str:
        hashes.run()
        return real(self, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", encode)
    yield hashes
    hashes.may_go.set()


def request_from(address: str) -> HttpRequest:
    request = HttpRequest()
    request.method = "POST"
    request.client_ip = address  # type: ignore[attr-defined]
    return request


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError

    monkeypatch.setattr("allauth.core.internal.ratelimit.time.sleep", sleep)


def test_counts_of_parallel_attempts_are_exact_and_never_sleep(committed: None, no_sleep: None):
    def attempt(number: int) -> bool:
        address = f"192.0.2.{number}"
        return bool(ratelimit.consume(request_from(address), action="login_failed", key="mona@example.com"))

    assert sum(in_threads(20, attempt)) == 5


def test_allauths_own_lock_is_not_used(no_sleep: None, db: None):
    """allauth's lock is a row of the cache: threads that wait for it sleep."""
    cache.add("count:lock", 1, 10)
    SingleRateLimitUsage("count", 60, 1.0).rollback()
    assert cache.get("count") == []


def test_forty_wrong_sign_ins_leave_threads_free(committed: None, hashes: Hashes):
    emails = [f"person{number}@example.com" for number in range(40)]
    hashes.may_go.set()
    for email in emails[:20]:
        person(email)
    hashes.may_go.clear()
    hashes.most = hashes.done = 0
    hashes.two_run.clear()
    refused = threading.Semaphore(0)

    def guess(number: int) -> int:
        client = Client(REMOTE_ADDR=f"192.0.2.{number}")
        answer = sign_in(client, emails[number], WRONG)
        if answer.status_code == 429:
            assert "Too many people are signing in" in answer.content.decode()
            assert answer["Retry-After"] == "5"
            refused.release()
        return answer.status_code

    def let_go(_number: int) -> int:
        """While the first hashes still run, 36 of 40 forms are refused and other pages are served."""
        try:
            assert hashes.two_run.wait(timeout=20)
            for _ in range(36):
                assert refused.acquire(timeout=20)
            assert Client().get("/healthz").status_code == 200
            assert Client().get("/accounts/login/").status_code == 200
        finally:
            hashes.may_go.set()  # also after a failure: forms that are not refused would wait for each other's hashes
        return 0

    statuses = in_threads(41, lambda number: guess(number) if number < 40 else let_go(number))
    assert sorted(statuses[:40]) == [200] * 4 + [429] * 36
    assert (hashes.most, hashes.done) == (2, 4)
    assert AuditEvent.objects.filter(event="auth.sign_in").count() <= 4


def test_a_form_refused_unread_counts_no_attempt(mona: User, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as crowded:
        crowded.setattr(sign_in_limits.for_strangers, "_inside", NoPlace())
        for _ in range(20):
            assert sign_in(Client(), mona.email, WRONG).status_code == 429
        assert Client().get("/accounts/login/").status_code == 200
    assert sign_in(Client(), mona.email, PASSWORD)["Location"] == "/"


def test_strangers_cannot_take_the_places_of_signed_in_people(
    mona: User, client_of: Callable[..., Client], monkeypatch: Any
):
    monkeypatch.setattr(sign_in_limits.for_strangers, "_inside", NoPlace())
    client = client_of(mona)
    assert client.post("/accounts/confirm/password/", {"password": PASSWORD}).status_code == 302
    new = "another battery staple"
    fields = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert client.post("/accounts/password/change/", fields).status_code == 302
    assert Client().post("/accounts/login/").status_code == 429, "the control"


def test_a_place_is_no_turn_yet():
    """Of the forms inside, only as many as may be checked at once are checked. The others wait for their turn."""
    limit = sign_in_limits.PasswordLimit(at_once=1, waiting=1)

    def view(_request: HttpRequest) -> HttpResponse:
        assert not limit._turn.acquire(blocking=False), "another form could be checked beside this one"
        return HttpResponse()

    for _ in range(3):
        assert limit(view)(request_from("192.0.2.1")).status_code == 200


def test_an_error_frees_the_place(mona: User, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr("allauth.account.forms.LoginForm.clean", fail)
        for _ in range(10):
            with pytest.raises(RuntimeError):
                sign_in(Client(), mona.email)
    assert sign_in(Client(), mona.email)["Location"] == "/"


def test_known_and_unknown_accounts_cost_one_hash_each(mona: User, vera: User, hashes: Hashes):
    User.objects.filter(pk=vera.pk).update(is_active=False)
    hashes.may_go.set()
    for email in (mona.email, "nobody@example.com", vera.email):
        hashes.done = 0
        assert sign_in(Client(), email, WRONG).status_code == 200
        assert hashes.done == 1, email
