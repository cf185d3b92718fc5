"""Requests go to Arize only: the checks when an address is saved, when it is called, and during the connection."""

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from taskruns.arize import errors
from taskruns.arize.client import ArizeClient
from taskruns.models import Credential, Team, User
from taskruns.outbound import Network
from taskruns.outbound.fence import is_public
from taskruns.services.credentials.client import CannotConnect, connected
from tests.clients import ClientOf
from tests.factories import CANARY
from tests.outbound.raw_server import QUICK, Server, answer, say
from tests.sources import TEXTS
from tests.wire import ENDPOINT

ARIZE = "https://api.arize.com"
EVIL = [
    "http://169.254.169.254",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]",
    "http://[::1]:9999",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]",
    "http://[::ffff:169.254.169.254]",
    "http://[::ffff:127.0.0.1]:9999",
    "http://[fe80::1%25eth0]",
    "http://2130706433",
    "http://2852039166:9999",
    "http://0x7f000001",
    "http://0x7f.0.0.1:9999",
    "http://0177.0.0.1",
    "http://0251.0376.0251.0376",
    "http://127.1",
    "http://0",
    "http://localhost",
    "http://LOCALHOST:9999",
    "https://api.arize.com@evil.example",
    "https://api.arize.com:word@evil.example",
    "https://evil.example@api.arize.com",
    "https://evil.example#@api.arize.com",
    "https://evil.example\\@api.arize.com",
    "https://api.arize.com\\.evil.example",
    "https://api.arize.com.evil.example",
    "https://api.arize.com:8443",
    "https://api.arize.com:80",
    "http://api.arize.com",
    "http://api.arize.com:443",
    "https://api.arize.com.",
    "https://api.arize.com..",
    "https://api.arize.com./",
    "https://api\u3002arize\uff0ecom",
    "https://\u0430pi.arize.com",
    "https://xn--pi-6kc.arize.com",
    "https://\u24d0pi.arize.com",
    "https://api.arize.com\u00ad",
    "https://api.arize.com%2eevil.example",
    "https://api.arize.com/../../evil",
    "https://api.arize.com?@evil.example",
    "https://api.arize.com\t.evil.example",
    "https:api.arize.com",
    "https:///api.arize.com",
    "https:\\\\api.arize.com",
    "gopher://api.arize.com",
    "file:///etc/passwd",
    "http://arize.test:9998",
    "http://arize.test",
    "https://arize.test:9999",
    "http://user@arize.test:9999",
    "http://arize.test.:9999",
]


@pytest.mark.parametrize("url", EVIL)
def test_a_foreign_address_is_refused_when_it_is_saved(
    url: str, team: Team, mona: User, client_of: ClientOf, arize: Any
):
    form = {"name": "Key", "endpoint": url, "key": CANARY}
    page = client_of(mona).post("/teams/ops-north/credentials/new/", form)
    assert page.status_code == 422
    assert list(page.context["form"].errors) == ["endpoint"]
    assert not Credential.objects.exists()
    assert not arize.calls


@pytest.mark.parametrize("url", EVIL)
def test_a_foreign_address_is_refused_again_when_it_is_called(url: str, credential: Credential, arize: Any):
    """As if it had been written to the table directly."""
    Credential.objects.update(endpoint=url)
    credential.refresh_from_db()
    with pytest.raises(CannotConnect, match="ARIZE_ENDPOINTS"), connected(credential):
        pass
    assert not arize.calls


@pytest.mark.parametrize(
    "url", [ARIZE, "HTTPS://API.ARIZE.COM/", "https://api.arize.com:443", ENDPOINT, "HTTP://Arize.Test:9999/"]
)
def test_allowed_addresses_pass_in_upper_and_lower_case(
    url: str, team: Team, mona: User, client_of: ClientOf, arize: Any
):
    """The control of the two tests above."""
    form = {"name": "Key", "endpoint": url, "key": CANARY, "anyway": "1"}
    assert client_of(mona).post("/teams/ops-north/credentials/new/", form).status_code == 302
    with connected(Credential.objects.get()) as client:
        assert client.endpoint in {ARIZE, ENDPOINT}


# --- The address of a name


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.9.9", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "198.18.0.1", "192.0.2.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"),
        *("::1", "::", "fe80::1%eth0", "fc00::1", "fd12::9", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "ff02::1"),
        *(
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:db8::1",
            "::7f00:1",
            "::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
        ),
        *("64:ff9b:1::a00:1", "2001:0:4136:e378:8000:63bf:80ff:fffe"),
    ],
)
def test_internal_addresses_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "34.120.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_external_addresses_are_public(address: str):
    assert is_public(address)


Leads = Callable[..., list[str]]


@pytest.fixture
def leads(monkeypatch: pytest.MonkeyPatch) -> Leads:
    """Resolve every name to this port of this machine. Returns the names that were looked up."""

    def install(port: int) -> list[str]:
        looked_up: list[str] = []

        def lookup(host: str, *_args: Any, **_kwargs: Any) -> list[Any]:
            looked_up.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr("socket.getaddrinfo", lookup)
        return looked_up

    return install


@pytest.mark.parametrize("method", ["get_run", "cancel_run"])
def test_an_arize_host_at_an_internal_address_receives_nothing(
    method: str, credential: Credential, server: Any, leads: Leads
):
    inside: Server = server(say(answer()))
    looked_up = leads(inside.port)
    Credential.objects.update(endpoint=ARIZE)
    credential.refresh_from_db()
    with connected(credential) as client, pytest.raises(errors.NotSent, match="private address"):
        getattr(client, method)("r1")
    assert looked_up == ["api.arize.com"]
    assert inside.requests == []


def test_a_name_rebound_to_an_internal_address_is_stopped_at_connecting(
    credential: Credential, server: Any, monkeypatch: pytest.MonkeyPatch
):
    """The check applies to the address of the connection, not to an earlier lookup."""
    inside: Server = server(say(answer()))

    def rebound(*_args: Any, **_kwargs: Any) -> socket.socket:
        return socket.create_connection(("127.0.0.1", inside.port))

    monkeypatch.setattr("urllib3.util.connection.create_connection", rebound)
    client = ArizeClient("http://arize.example", CANARY, public_only=True, get_retries=0)
    with client, pytest.raises(errors.NotSent, match="private address"):
        client.get_run("r1")
    assert inside.requests == []


def test_a_listed_extra_endpoint_may_have_an_internal_address(
    credential: Credential, server: Any, leads: Leads, settings: Any
):
    """The control: the same request to the same address, but ARIZE_ENDPOINTS lists its name."""
    inside: Server = server(say(answer()))
    leads(inside.port)
    with connected(credential) as client:
        assert client.get_run("r1").num_errors == 12
    assert len(inside.requests) == 1
    settings.ARIZE_ENDPOINTS = ()
    with pytest.raises(CannotConnect), connected(credential):
        pass


def test_a_listed_arize_host_may_have_an_internal_address(
    credential: Credential, server: Any, leads: Leads, settings: Any
):
    """Arize over a private link: the address is allowed, but the certificate is still checked."""
    inside: Server = server(say(answer()))
    leads(inside.port)
    Credential.objects.update(endpoint=ARIZE)
    credential.refresh_from_db()
    settings.ARIZE_ENDPOINTS = ("https://API.arize.com/",)
    with (
        connected(credential, timeouts=QUICK) as client,
        pytest.raises(errors.NotSent) as refused,
    ):
        client.get_run("r1")
    assert "private address" not in str(refused.value)


# --- TLS


def tls(folder: Path, host: str) -> tuple[ssl.SSLContext, str]:
    """A self-signed certificate for this host or address, and the file that would have to be trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    known: x509.GeneralName = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([known]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{host}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, str(file)


@pytest.mark.parametrize(("host", "is_met"), [("127.0.0.1", True), ("api.arize.com", False)])
def test_a_certificate_must_be_trusted_and_match_the_host(*, host: str, is_met: bool, server: Any, tmp_path: Path):
    context, file = tls(tmp_path, host)
    arize: Server = server(say(answer()), tls=context)
    trusting = Network(ca_bundle=file)  # as if a trusted authority had signed it
    with ArizeClient(arize.url, CANARY, get_retries=0, network=trusting) as client:
        if is_met:
            assert client.get_run("r1").num_errors == 12
        else:
            with pytest.raises(errors.NotSent, match="certificate"):
                client.get_run("r1")
    assert len(arize.requests) == is_met


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("REQUESTS_CA_BUNDLE", "FILE"),
            ("CURL_CA_BUNDLE", "FILE"),
            ("SSL_CERT_FILE", "FILE"),
            ("SSL_CERT_DIR", "DIR"),
        ),
        *(("PYTHONHTTPSVERIFY", "0"), ("ARIZE_REQUEST_VERIFY", "false"), ("REQUESTS_CA_BUNDLE", ""), ("DEBUG", "on")),
    ],
)
def test_no_variable_disables_certificate_checks(
    name: str, value: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context, file = tls(tmp_path, "127.0.0.1")
    arize: Server = server(say(answer()), tls=context)
    monkeypatch.setenv(name, {"FILE": file, "DIR": str(tmp_path)}.get(value, value))
    with ArizeClient(arize.url, CANARY, get_retries=0) as client, pytest.raises(errors.NotSent, match="certificate"):
        client.get_run("r1")
    assert arize.requests == []


def test_no_source_line_disables_certificate_checks():
    words = ("verify=False", "verify = False", "CERT_NONE", "check_hostname", "_create_unverified", "disable_warnings")
    assert not [(path, word) for path, text in TEXTS.items() for word in words if word in text]
    assert [path.name for path, text in TEXTS.items() if '"verify": True' in text] == ["session.py"]
