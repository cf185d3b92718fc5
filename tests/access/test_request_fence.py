"""Edge cases of the request fence: responses without a view, unread bodies, cookies, forged headers."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.staticfiles.finders import get_finders
from django.http import HttpResponse
from django.test import Client, RequestFactory

from taskruns.middleware import HostCookie
from taskruns.models import Team, User
from tests.access.fence import assert_fenced
from tests.clients import ClientOf
from tests.config.deployment import FERNET, GOOD
from tests.paths import ROOT

TEN_MEGABYTES = 10_000_000
FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=x"
PAST_A_VIEW = (
    "/healthz",
    "/readyz",
    "/nowhere/",
    "/static/nothing.css",
    "/teams/%00/runs/",
    "/healthz/",
    "/robots.txt",
)


@pytest.mark.parametrize("path", PAST_A_VIEW)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_responses_without_a_view_send_the_security_headers(path: str, method: str, db: None):
    assert_fenced(Client().generic(method, path))


@pytest.fixture
def stylesheet() -> Iterator[str]:
    file = Path(django_settings.STATIC_ROOT) / "fence.css"
    file.write_text("p {}")
    yield "/static/fence.css"
    file.unlink()


def test_only_static_files_are_served_under_static(stylesheet: str, db: None):
    found = Client().get(stylesheet)
    assert (found.status_code, found.getvalue()) == (200, b"p {}")
    assert_fenced(found)
    for path in ("/static/../taskruns.sqlite3", "/static/%2e%2e/taskruns.sqlite3", "/static/", "/static//etc/passwd"):
        answer = Client().get(path)
        assert answer.status_code in {400, 404}
        assert_fenced(answer)


def test_health_checks_work_with_any_host_and_plain_http(settings: Any, db: None):
    settings.SECURE_SSL_REDIRECT = True
    for host in ("10.0.0.7:8000", "evil.example", ""):
        assert Client().get("/healthz", headers={"host": host}).content == b"ok\n"
        assert Client().get("/readyz", headers={"host": host}).status_code in {200, 503}
    assert Client().get("/").status_code == 301  # control


def test_https_redirect_stays_on_this_site(settings: Any, db: None):
    settings.SECURE_SSL_REDIRECT = True
    for host in ("localhost", "evil.example", "localhost@evil.example"):
        answer = Client().get("/runs/?x=1", headers={"host": host})
        assert (answer.status_code, answer["Location"]) == (301, "https://localhost:8000/runs/?x=1")
        assert_fenced(answer)


# --- Bodies


class Unread(io.BytesIO):
    """A body that counts how much of it was read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


def send(client: Client, path: str, body: Unread, kind: str, **extra: Any) -> HttpResponse:
    length = len(body.getvalue())
    environ = {"wsgi.input": body, "CONTENT_LENGTH": str(length), "CONTENT_TYPE": kind, "REQUEST_METHOD": "POST"}
    answer: Any = client.generic("POST", path, **(environ | extra))
    return answer  # type: ignore[no-any-return]


def file_of(size: int) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
    return head + b"b" * size + b"\r\n--x--\r\n"


@pytest.mark.parametrize("who", ["anonymous", "mona"])
@pytest.mark.parametrize(
    "path", ["/accounts/login/", "/teams/ops-north/settings/", "/nowhere/", "/teams/ops-north/runs/"]
)
@pytest.mark.parametrize("kind", [FORM, PARTS, "application/json"])
def test_large_body_is_rejected_unread(
    who: str, path: str, kind: str, cast: dict[str, User | None], client_of: ClientOf
):
    body = Unread(file_of(TEN_MEGABYTES) if kind == PARTS else b"a=" + b"b" * TEN_MEGABYTES)
    answer = send(client_of(cast[who]), path, body, kind)
    assert answer.status_code == 413
    assert "larger than any form of the panel" in answer.content.decode()
    assert body.taken == 0
    assert_fenced(answer)


def test_longest_allowed_body_is_read(team: Team, mona: User, client_of: ClientOf):
    """The control: a body just below the limit reaches the form."""
    for body, kind in ((b"name=Ops&x=" + b"b" * 900_000, FORM), (file_of(900_000), PARTS)):
        unread = Unread(body)
        answer = send(client_of(mona), "/teams/ops-north/settings/", unread, kind)
        assert answer.status_code in {302, 422}
        assert unread.taken


@pytest.mark.parametrize("length", ["-5", "nonsense", "1e9", "9" * 400, "٣", "0x10"])
def test_invalid_content_length_is_no_500(length: str, mona: User, client_of: ClientOf):
    answer = send(client_of(mona), "/teams/ops-north/settings/", Unread(b"name=x"), FORM, CONTENT_LENGTH=length)
    assert answer.status_code in {400, 413}
    assert_fenced(answer)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_too_many_fields_are_rejected_with_an_explanation(method: str, mona: User, client_of: ClientOf):
    fields = "&".join(f"run={number}" for number in range(5_001))
    path = "/teams/ops-north/settings/" if method == "POST" else f"/teams/ops-north/runs/?{fields}"
    answer = client_of(mona).generic(method, path, fields if method == "POST" else "", FORM)
    assert answer.status_code == 400
    assert "could not read this request" in answer.content.decode()


# --- Cookies


def test_cookies_are_http_only_and_same_site(mona: User, client_of: ClientOf):
    client = Client()
    client.get("/accounts/login/")
    client.post("/accounts/login/", {"login": mona.email, "password": "correct horse battery"})
    assert set(client.cookies) >= {"sessionid", "csrftoken"}
    for cookie in client.cookies.values():
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")


HTTPS_CALL = """
import django, json
django.setup()
from django.test import Client
from taskruns.models import User
from taskruns.views.people import known_browsers
remembered = Client().get("/healthz")
known_browsers.remember(remembered.wsgi_request, remembered, User(pk=1))
answers = [
    Client().get("/accounts/login/", secure=True, headers={"host": "panel.example.com"}),
    Client().get("/accounts/login/", headers={"host": "evil.example"}),
    Client().get("/accounts/login/", headers={"host": "panel.example.com", "X-Forwarded-Proto": "https"}),
    Client().get(
        "/accounts/login/passkey/",
        secure=True,
        headers={"host": "panel.example.com", "Accept": "application/json"},
    ),
    remembered,
]
print(json.dumps([[a.status_code, dict(a.headers), a.cookies.output()] for a in answers]))
"""


@pytest.mark.slow
def test_https_site_has_host_cookies_and_hsts(tmp_path: Path):
    """In its own process, because SITE_URL and TRUSTED_PROXIES take effect when the settings are read."""
    env = GOOD | {
        "PATH": os.environ["PATH"],
        "ENV_FILE": "",
        "DATA_DIR": str(tmp_path),
        "ENCRYPTION_KEYS": f"1:{FERNET}",
    }
    env |= {
        "SITE_URL": "https://panel.example.com",
        "TRUSTED_PROXIES": "1",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    (tmp_path / "static").mkdir()
    manifest = {"version": "1.1", "paths": _manifest()}
    (tmp_path / "static" / "staticfiles.json").write_text(json.dumps(manifest))
    ended = subprocess.run(
        [sys.executable, "-c", HTTPS_CALL], check=False, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    (page, forged, behind, challenge, remembered) = json.loads(ended.stdout.splitlines()[-1])
    assert page[0] == behind[0] == challenge[0] == 200
    named = [("csrftoken", page), ("csrftoken", behind), ("sessionid", challenge), ("device", remembered)]
    for name, (_, _, cookies) in named:
        assert f"Set-Cookie: __Host-{name}=" in cookies
        for cookie in cookies.splitlines():
            assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
            assert "Domain" not in cookie
    assert (forged[0], forged[1]["Location"]) == (301, "https://panel.example.com/accounts/login/")
    for _, headers, _ in (page, forged, behind, challenge, remembered):
        assert headers["Strict-Transport-Security"] == "max-age=31536000"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def _manifest() -> dict[str, str]:
    """All static files with their own names."""
    return {name: name for finder in get_finders() for name, _ in finder.list([])}


@pytest.mark.parametrize("name", ["__Host-messages", "messages"])
def test_message_cookie_has_the_name_of_the_settings(name: str, settings: Any):
    settings.COOKIES = replace(settings.COOKIES, messages=name)
    assert HostCookie(RequestFactory().get("/")).cookie_name == name
