"""The client against a real socket: cut, silent and slow connections, redirects, untrusted certificates."""

import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from taskruns.arize import errors
from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError
from taskruns.outbound import Egress, Session, connection
from taskruns.outbound.session import USER_AGENT
from tests.outbound.raw_server import QUICK, SAMPLE, answer, say

KEY = "ak-canary-7f3d9b2e51c84a60"


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch):
    monkeypatch.setattr(connection, "BACKOFF", 0.01)
    monkeypatch.setattr(connection, "JITTER", 0.0)


def failure(url, method, **kwargs):
    with ArizeClient(url, KEY, **{"timeouts": QUICK, **kwargs}) as client:
        started = time.monotonic()
        with pytest.raises(ArizeError) as caught:
            getattr(client, method)("r1")
    caught.value.took = time.monotonic() - started
    caught.value.calls = client.calls
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "urllib3" not in str(caught.value)
    return caught.value


def test_cancel_has_no_body_and_uses_a_new_connection(server):
    arize = server(say(answer()))
    with ArizeClient(arize.url, KEY) as client:
        client.get_run("r1")
        client.get_run("r1")
        assert arize.connections == 1
        client.cancel_run("VGFza1J1bjo5OTpxUndY=")
        client.cancel_run("r2")
    assert (arize.connections, client.calls) == (3, 4)
    line, *headers = arize.requests[2].decode().strip().split("\r\n")
    assert line == "POST /v2/task-runs/VGFza1J1bjo5OTpxUndY%3D/cancel HTTP/1.1"
    assert "Content-Length: 0" in headers
    assert f"Authorization: Bearer {KEY}" in headers
    assert not [header for header in headers if header.lower().startswith("content-type")]


@pytest.mark.parametrize(
    ("run_id", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("%2F", "%252F"),
        ("a?b", "a%3Fb"),
        ("a#b", "a%23b"),
        ("...", "..."),
        ("../x", "..%2Fx"),
        ("a b+c", "a%20b%2Bc"),
        ("%2e%2e", "%252e%252e"),
        ("ä=", "%C3%A4%3D"),
        ("a\r\nb", "a%0D%0Ab"),
        ("~-_.", "~-_."),
        ("http://evil/", "http%3A%2F%2Fevil%2F"),
    ],
)
def test_id_stays_one_path_segment(server, run_id, segment):
    arize = server(say(answer()))
    with ArizeClient(arize.url, KEY) as client:
        client.get_run(run_id)
    assert arize.requests[0].startswith(f"GET /v2/task-runs/{segment} HTTP/1.1\r\n".encode())


def test_redirect_is_not_followed(server):
    other = server(say(answer()))
    for location in (f"{other.url}/v2/task-runs/r1", "http://[", "\xff\xfe", "//", ""):
        arize = server(say(answer(b"302 Found", b"", f"Location: {location}\r\n".encode("latin-1"))))
        for method in ("get_run", "cancel_run"):
            error = failure(arize.url, method)
            assert (type(error), error.status, error.calls) == (errors.UnexpectedAnswer, 302, 1)
    assert other.requests == []
    with ArizeClient(other.url, KEY) as client:
        client.get_run("r1")
    assert len(other.requests) == 1


@pytest.mark.parametrize(("method", "calls"), [("get_run", 3), ("cancel_run", 1)])
def test_connection_cut_after_the_request_is_no_answer(server, method, calls):
    arize = server(lambda *_: "close")
    error = failure(arize.url, method)
    assert (type(error), error.calls, len(arize.requests)) == (errors.NoAnswer, calls, calls)


@pytest.mark.parametrize("method", ["get_run", "cancel_run"])
@pytest.mark.parametrize(
    "data",
    [
        answer()[:-20],
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id"',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_broken_success_is_no_answer(server, data, method):
    def serve(stream, _):
        stream.sendall(data)
        return "close"

    assert type(failure(server(serve).url, method)) is errors.NoAnswer


def test_truncated_error_answer_keeps_its_status(server):
    def serve(stream, _):
        stream.sendall(answer(b"401 Unauthorized", b'{"title": "Authentication required"}')[:-5])
        return "close"

    error = failure(server(serve).url, "cancel_run")
    assert (type(error), error.title) == (errors.Unauthorized, "")


def test_silent_server_is_no_answer_within_the_deadline(server):
    arize = server(lambda *_: None)
    post = failure(arize.url, "cancel_run")
    assert (type(post), post.calls) == (errors.NoAnswer, 1)
    assert 0.3 <= post.took < 3
    get = failure(arize.url, "get_run", get_retries=50)
    assert type(get) is errors.NoAnswer
    assert get.took < 3, "50 retries would take 15 s"
    assert 2 <= get.calls <= 5


@pytest.mark.parametrize("method", ["get_run", "cancel_run"])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"])
def test_slow_server_is_held_to_the_deadline(server, start, method):
    def serve(stream, _):
        stream.sendall(start)
        while not arize.over.wait(0.05):
            stream.sendall(b"x")

    arize = server(serve)
    error = failure(arize.url, method)
    assert type(error) is errors.NoAnswer
    assert QUICK.call - 0.3 <= error.took < QUICK.call + 0.5


def test_slow_answer_within_the_deadline_is_read(server):
    def serve(stream, _):
        data = answer()
        for start in range(0, len(data), 200):
            stream.sendall(data[start : start + 200])
            arize.over.wait(0.05)

    arize = server(serve)
    with ArizeClient(arize.url, KEY, timeouts=QUICK) as client:
        assert client.get_run("r1").num_errors == 12


@pytest.mark.parametrize(("method", "calls"), [("get_run", 3), ("cancel_run", 1)])
def test_a_refused_connection_means_nothing_was_sent(method, calls):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = failure(f"http://127.0.0.1:{port}", method)
    assert (type(error), error.status, error.calls) == (errors.NotSent, None, calls)


def test_an_unknown_host_name_means_nothing_was_sent():
    error = failure("https://no-such-host.invalid", "cancel_run")
    assert type(error) is errors.NotSent
    assert "host name" in error.sentence


@pytest.mark.parametrize("url", ["", "nonsense", "https://[", "https://a..b", "http://127.0.0.1:99999", "ftp://x"])
def test_invalid_endpoint_means_nothing_was_sent(url):
    assert type(failure(url, "cancel_run")) is errors.NotSent


def test_full_backlog_means_nothing_was_sent():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        error = failure(f"http://127.0.0.1:{deaf.getsockname()[1]}", "cancel_run")
        for one in waiting:
            one.close()
    assert type(error) is errors.NotSent
    assert "within 0.5 seconds" in error.sentence


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api.arize.com")])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "foreign.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, str(file)


@pytest.mark.parametrize("method", ["get_run", "cancel_run"])
def test_untrusted_certificate_is_refused_despite_environment(server, foreign, method, monkeypatch):
    context, file = foreign
    arize = server(say(answer()), tls=context)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, file)
    error = failure(arize.url, method)
    assert (type(error), error.calls) == (errors.NotSent, 1)
    assert "certificate" in error.sentence
    assert (arize.connections, arize.requests) == (1, [])


def test_endless_tls_handshake_means_nothing_was_sent(server):
    arize = server(lambda *_: None)
    error = failure(arize.url.replace("http", "https"), "cancel_run")
    assert type(error) is errors.NotSent
    assert error.took < 1.5


def test_client_ignores_proxies_and_netrc(server, monkeypatch, tmp_path):
    arize, proxy = server(say(answer())), server(say(answer()))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password word\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with ArizeClient(arize.url, KEY) as client:
        client.get_run("r1")
    assert f"Authorization: Bearer {KEY}\r\n".encode() in arize.requests[0]
    assert proxy.connections == 0


def test_threads_can_share_one_client(server):
    arize = server(say(answer()))
    with ArizeClient(arize.url, KEY, pool_size=4) as client:
        threads = [threading.Thread(target=lambda: [client.get_run("r") for _ in range(25)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert client.calls == len(arize.requests) == 100
    assert arize.connections <= 4


# --- Libraries that use requests themselves have the same restrictions


@pytest.fixture
def session():
    with Session(Egress(QUICK)) as opened:
        yield opened


def test_library_session_sends_headers_and_reads_the_body(server, session):
    provider = server(say(answer()))
    found = session.post(provider.url, headers={"Accept": "text/plain"})
    assert (found.status_code, found.content) == (200, SAMPLE)
    head = provider.requests[0].decode()
    assert "Accept: text/plain\r\n" in head
    assert f"User-Agent: {USER_AGENT}\r\n" in head
    assert "Authorization" not in head


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"])
def test_library_session_is_held_to_the_deadline(server, session, start):
    def serve(stream, _):
        stream.sendall(start)
        while not provider.over.wait(0.05):
            stream.sendall(b"x")

    provider = server(serve)
    started = time.monotonic()
    with pytest.raises(OSError):
        session.get(provider.url, timeout=None)
    assert QUICK.call - 0.3 <= time.monotonic() - started < QUICK.call + 0.5


def test_library_session_never_follows_redirects(server, session):
    other = server(say(answer()))
    first = server(say(answer(b"302 Found", b"", f"Location: {other.url}/\r\n".encode())))
    assert session.get(first.url, allow_redirects=True).status_code == 302
    assert other.requests == []
    assert session.get(other.url).status_code == 200


def test_library_session_always_checks_certificates(server, session, foreign):
    context, _ = foreign
    provider = server(say(answer()), tls=context)
    with pytest.raises(requests.exceptions.SSLError):
        session.get(provider.url, verify=False)
    assert (provider.connections, provider.requests) == (1, [])


def test_library_session_ignores_proxies_and_netrc(server, session, monkeypatch, tmp_path):
    provider, proxy = server(say(answer())), server(say(answer()))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password word\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", proxy.url)
    session.get(provider.url)
    assert b"Authorization" not in provider.requests[0]
    assert proxy.connections == 0


def test_prepared_request_cannot_bypass_the_deadline(server, session):
    provider = server(say(answer()))
    with pytest.raises(LookupError):
        session.send(session.prepare_request(requests.Request("GET", provider.url)))
    assert provider.requests == []
