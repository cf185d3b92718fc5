"""EGRESS_PROXY, NO_PROXY and CA_BUNDLE: what they mean, and what stops the start."""

import base64
import traceback
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config import network
from taskruns.outbound import Network
from tests.outbound.certificates import Authority

ENDPOINTS = ("https://arize.corp.example", "https://10.0.0.5:8443", "http://plain.corp.example", "https://[fd00::1]")


def decoded(authorization: str) -> str:
    kind, _, value = authorization.partition(" ")
    assert kind == "Basic"
    return base64.b64decode(value).decode()


@pytest.mark.parametrize(
    ("given", "url", "user"),
    [
        ("http://proxy.corp.example:3128", "http://proxy.corp.example:3128", ""),
        ("http://proxy:3128/", "http://proxy:3128", ""),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080", ""),
        ("http://[fd00::2]:3128", "http://[fd00::2]:3128", ""),
        ("http://me:pa%2Fss%40w%C3%B6rd@Proxy:3128", "http://proxy:3128", "me:pa/ss@wörd"),
        ("http://corp%5Cme:p%3Aw@proxy:3128", "http://proxy:3128", "corp\\me:p:w"),
        ("http://me@proxy:3128", "http://proxy:3128", "me:"),
    ],
)
def test_a_proxy_is_read_from_its_url(given: str, url: str, user: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EGRESS_PROXY", given)
    proxy = network.of_environment(()).proxy
    assert proxy is not None
    assert proxy.url == url
    assert (decoded(proxy.authorization) if user else proxy.authorization) == user
    assert "pa/ss" not in repr(proxy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("EGRESS_PROXY", value) for value in ("proxy:3128", "https://proxy:3128", "socks5://s3kr3t@proxy:1080")),
        *(("EGRESS_PROXY", value) for value in ("http://", "http://proxy:port", "http://proxy:3128/s3kr3t")),
        *(("EGRESS_PROXY", value) for value in ("http://me:s3kr3t/x@proxy:3128", "http://me:s3kr3t%FF@proxy:3128")),
        *(("EGRESS_PROXY", value) for value in ("http://proxy:3128?s3kr3t", "http://proxy:99999", "http://a b")),
        *(("CA_BUNDLE", value) for value in ("/no/such/s3kr3t", "/dev/null", "/etc", __file__)),
    ],
)
def test_a_malformed_value_stops_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as refused:
        network.of_environment(())
    assert str(refused.value).startswith(f"{name} must ")
    assert "s3kr3t" not in "".join(traceback.format_exception(refused.value))


def test_without_variables_requests_leave_directly():
    assert network.of_environment(ENDPOINTS) == Network()
    assert Network().proxy_for("https://api.arize.com/v2/tasks") is None


@pytest.mark.parametrize(
    ("entries", "direct"),
    [
        ("arize.corp.example", {"https://arize.corp.example"}),
        (".corp.example", {"https://arize.corp.example", "http://plain.corp.example"}),
        ("corp.example, 10.0.0.0/8", {"https://arize.corp.example", "http://plain.corp.example", ENDPOINTS[1]}),
        ("*.corp.example", {"https://arize.corp.example", "http://plain.corp.example"}),
        ("ARIZE.CORP.EXAMPLE:443", {"https://arize.corp.example"}),
        ("arize.corp.example:8443", set()),
        ("10.0.0.5", {"https://10.0.0.5:8443"}),
        ("10.0.0.5:8443", {"https://10.0.0.5:8443"}),
        ("fd00::1", {"https://[fd00::1]"}),
        ("fd00::/8", {"https://[fd00::1]"}),
        ("*", set(ENDPOINTS)),
        ("rize.corp.example, orp.example, 1, /, [, ::::, api.arize.com, 300.0.0.0/8", set()),
    ],
)
def test_no_proxy_exempts_only_extra_endpoints(entries: str, direct: set[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EGRESS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", entries)
    found = network.of_environment(ENDPOINTS)
    assert found.direct == direct
    assert found.proxy_for("https://api.arize.com/v2/tasks") is found.proxy
    assert found.proxy_for("https://id.example.com/token") is found.proxy
    assert found.proxy_for("http://plain.corp.example/v2/tasks") is None, "plain http is never tunnelled"
    for url in direct:
        assert found.proxy_for(f"{url}/v2/tasks") is None


def test_a_bundle_is_read_with_a_relative_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = Authority(tmp_path).file
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CA_BUNDLE", "authority.pem")
    assert network.of_environment(()).ca_bundle == file
