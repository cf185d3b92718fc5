"""Without a trusted proxy, the client's own claims (address, protocol, request id) are ignored."""

import re
from typing import Any

import pytest
from django.test import Client, RequestFactory

from taskruns.middleware import client_ip, request_id
from taskruns.models import AuditEvent, Team, User
from tests.clients import ClientOf


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, None, "192.0.2.1"),
        (0, "203.0.113.9", "192.0.2.1"),
        (1, None, "192.0.2.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.66, 203.0.113.9", "203.0.113.9"),
        (2, "198.51.100.66, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "203.0.113.9", "203.0.113.9"),
        (1, "2001:DB8::1", "2001:db8::1"),
        # Some proxies add the port.
        (1, "203.0.113.9:51234", "203.0.113.9"),
        (1, "[2001:DB8::1]:443", "2001:db8::1"),
        (1, "[2001:db8::1]", "2001:db8::1"),
        (1, "::ffff:203.0.113.9", "203.0.113.9"),
        (1, "fe80::1%eth0", "fe80::1"),
        # No address: the proxy that sent it.
        (1, "198.51.100.66, <script>", "192.0.2.1"),
        (1, "unknown", "192.0.2.1"),
        (1, "203.0.113.9:51234:1", "192.0.2.1"),
        (2, "198.51.100.66, unknown, 10.0.0.1", "10.0.0.1"),
        (2, "unknown, _hidden", "192.0.2.1"),
    ],
)
def test_client_address_comes_from_trusted_proxies_only(
    settings: Any, proxies: int, forwarded: str | None, expected: str
):
    settings.TRUSTED_PROXIES = proxies
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    assert client_ip(RequestFactory().get("/", headers=headers, REMOTE_ADDR="192.0.2.1")) == expected


def test_client_on_a_unix_socket_is_local():
    request = RequestFactory().get("/")
    request.META["REMOTE_ADDR"] = ""
    assert client_ip(request) == "127.0.0.1"


def test_audit_log_ignores_forged_addresses(team: Team, vera: User, client_of: ClientOf):
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    forged["X-Request-ID"] = "chosen-by-the-client"
    client_of(vera).get("/teams/ops-north/credentials/", headers=forged, REMOTE_ADDR="192.0.2.1")
    row = AuditEvent.objects.get(event="access.denied")
    assert row.ip == "192.0.2.1"
    assert row.request_id
    assert row.request_id != "chosen-by-the-client"


@pytest.mark.parametrize(
    ("proxies", "sent", "is_kept"),
    [
        (0, "abc-1", False),
        (1, "abc-1", True),
        (1, "a b", False),
        (1, "x" * 65, False),
        (1, "a\tb", False),
        (1, "", False),
    ],
)
def test_request_id_comes_from_the_proxy_or_the_panel(*, proxies: int, sent: str, is_kept: bool, settings: Any):
    settings.TRUSTED_PROXIES = proxies
    found = request_id(RequestFactory().get("/", headers={"X-Request-ID": sent}))
    assert (found == sent) is is_kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", found)


def test_log_and_error_page_share_the_request_id(settings: Any, team: Team, vera: User, client_of: ClientOf):
    settings.TRUSTED_PROXIES = 1
    page = client_of(vera).get("/teams/ops-north/credentials/", headers={"X-Request-ID": "from-the-proxy-1"})
    assert page.status_code == 403
    assert "from-the-proxy-1" in page.content.decode()
    assert AuditEvent.objects.get(event="access.denied").request_id == "from-the-proxy-1"


def test_forwarded_protocol_counts_only_behind_a_proxy(settings: Any, db: None):
    forged = {"X-Forwarded-Proto": "https"}
    assert not Client().get("/accounts/login/", headers=forged).wsgi_request.is_secure()
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert Client().get("/accounts/login/", headers=forged).wsgi_request.is_secure()
