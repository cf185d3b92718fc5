"""A real proxy between the panel and a TLS server of a private authority: what was sent, and what is said about it."""

import base64
import json
import logging
import threading
import time

import pytest

from taskruns.arize import errors
from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError
from taskruns.models import AuditEvent, Cancellation, Credential, Run, Task
from taskruns.outbound import Bearer, Egress, Failure, Network, Proxy, Session, connection
from taskruns.outbound.fence import is_private_by_name
from taskruns.services import cancellations, mirror
from taskruns.sso import Provider
from taskruns.views.sso import provider as sso_provider
from tests.clients import click_cancel
from tests.factories import actor
from tests.outbound.certificates import Authority
from tests.outbound.connect_proxy import ESTABLISHED, drip, refuse, then_cut, tunnel_to
from tests.outbound.raw_server import QUICK, SLACK, answer, say
from tests.wire import wire_run

KEY = "ak-canary-7f3d9b2e51c84a60"
PASSWORD = "s3kr3t/pass@wörd"
HOST = "api.arize.com"
ARIZE = f"https://{HOST}"
ISSUER = "https://id.example.com"
AUTHORIZATION = "Basic " + base64.b64encode(f"panel:{PASSWORD}".encode()).decode()
BOTH = pytest.mark.parametrize("method", ["get_run", "cancel_run"])


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch):
    monkeypatch.setattr(connection, "BACKOFF", 0.01)
    monkeypatch.setattr(connection, "JITTER", 0.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority):
    return authority.server(HOST, "id.example.com", "arize.test")


@pytest.fixture
def through(authority):
    """`through(proxy)`: the network of a deployment that has this proxy and trusts the private authority."""

    def network(proxy, *, direct=()):
        url = proxy if isinstance(proxy, str) else proxy.url
        return Network(Proxy(url, AUTHORIZATION), direct=frozenset(direct), ca_bundle=authority.file)

    return network


def call(network, method="cancel_run", url=ARIZE, **how):
    with ArizeClient(url, KEY, timeouts=QUICK, network=network, public_only=True, **how) as client:
        return getattr(client, method)("r1")


def failure(network, method, url=ARIZE, **how):
    started = time.monotonic()
    with pytest.raises(ArizeError) as caught:
        call(network, method, url, **how)
    caught.value.took = time.monotonic() - started
    assert caught.value.__cause__ is caught.value.__context__ is None
    for secret in (KEY, PASSWORD, "s3kr3t", AUTHORIZATION):
        assert secret not in repr(caught.value) + str(caught.value)
    return caught.value


# --- What works


@BOTH
def test_a_call_goes_through_the_tunnel_and_the_proxy_sees_no_key(server, tls, through, method):
    arize = server(say(answer()), tls=tls)
    proxy = server(tunnel_to(arize.port))
    assert call(through(proxy), method).num_errors == 12
    (head,) = proxy.requests
    line, *headers = head.decode().strip().split("\r\n")
    assert line.startswith(f"CONNECT {HOST}:443 HTTP/1.")
    assert f"Proxy-Authorization: {AUTHORIZATION}" in headers
    assert KEY not in head.decode()
    (request,) = arize.requests
    assert f"Authorization: Bearer {KEY}\r\n".encode() in request
    assert b"Proxy-Authorization" not in request


def test_reads_share_a_tunnel_and_each_cancel_has_its_own(server, tls, through):
    arize = server(say(answer()), tls=tls)
    proxy = server(tunnel_to(arize.port))
    with ArizeClient(ARIZE, KEY, timeouts=QUICK, network=through(proxy)) as client:
        for _ in range(3):
            client.get_run("r1")
        assert len(proxy.requests) == 1
        client.cancel_run("r1")
        client.cancel_run("r1")
    assert len(proxy.requests) == 3
    assert len(arize.requests) == 5


def test_a_proxy_without_a_password_gets_no_header(server, tls, authority):
    arize = server(say(answer()), tls=tls)
    proxy = server(tunnel_to(arize.port))
    call(Network(Proxy(proxy.url), ca_bundle=authority.file))
    assert b"Proxy-Authorization" not in proxy.requests[0]


def test_certificates_are_loaded_once(authority):
    assert connection.tls_context(authority.file) is connection.tls_context(authority.file)
    assert connection.tls_context() is not connection.tls_context(authority.file)


def test_without_the_bundle_the_authority_is_not_trusted(server, tls):
    arize = server(say(answer()), tls=tls)
    proxy = server(tunnel_to(arize.port))
    error = failure(Network(Proxy(proxy.url)), "cancel_run")
    assert (type(error), arize.requests) == (errors.NotSent, [])
    assert "certificate" in error.sentence


def test_the_certificate_must_match_the_host_behind_the_proxy(server, tls, through):
    arize = server(say(answer()), tls=tls)
    proxy = server(tunnel_to(arize.port))
    error = failure(through(proxy), "cancel_run", "https://other.example.com")
    assert (type(error), arize.requests) == (errors.NotSent, [])
    assert "certificate" in error.sentence


# --- Nothing was sent


@BOTH
@pytest.mark.parametrize(
    ("status", "says"), [(403, "(403)"), (503, "(503)"), (302, "(302)"), (407, "name or password")]
)
def test_a_refusal_of_the_proxy_means_nothing_was_sent(server, through, method, status, says):
    proxy = server(refuse(status))
    error = failure(through(proxy), method)
    assert (type(error), error.status) == (errors.NotSent, None)
    assert error.sentence.startswith("The proxy refused ")
    assert says in error.sentence
    assert error.took < QUICK.call, "the answer ends it, not the deadline"
    assert len(proxy.requests) == 1, "not retried"


@BOTH
def test_a_proxy_that_is_down_means_nothing_was_sent(through, free_port, method):
    error = failure(through(f"http://127.0.0.1:{free_port}"), method)
    assert (type(error), error.sentence) == (errors.NotSent, errors.NOT_SENT[Failure.PROXY_UNREACHABLE])


def test_a_proxy_with_an_unknown_name_means_nothing_was_sent(through):
    error = failure(through("http://no-such-proxy.invalid:3128"), "cancel_run")
    assert (type(error), error.sentence) == (errors.NotSent, errors.NOT_SENT[Failure.PROXY_UNREACHABLE])


@BOTH
def test_a_silent_proxy_is_held_to_the_connect_timeout(server, through, method):
    error = failure(through(server(lambda *_: None)), method, get_retries=0)
    assert (type(error), error.sentence) == (errors.NotSent, errors.NOT_SENT[Failure.PROXY_FAILED])
    assert QUICK.connect <= error.took < QUICK.connect + SLACK


@BOTH
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_proxy_that_drips_is_held_to_the_deadline(server, through, method, start):
    over = threading.Event()
    error = failure(through(server(drip(start, over))), method, get_retries=0)
    over.set()
    assert (type(error), error.sentence) == (errors.NotSent, errors.NOT_SENT[Failure.PROXY_FAILED])
    assert error.took < QUICK.call + SLACK


@BOTH
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 20", b"nonsense\r\n\r\n"], ids=["nothing", "half a line", "nonsense"])
def test_a_proxy_that_cuts_the_connection_means_nothing_was_sent(server, through, method, data):
    error = failure(through(server(then_cut(data))), method)
    assert (type(error), error.sentence) == (errors.NotSent, errors.NOT_SENT[Failure.PROXY_FAILED])


@BOTH
def test_a_tunnel_cut_before_tls_means_nothing_was_sent(server, through, method):
    error = failure(through(server(then_cut(ESTABLISHED))), method)
    assert type(error) is errors.NotSent


@BOTH
def test_tls_that_hangs_in_the_tunnel_means_nothing_was_sent(server, through, method):
    error = failure(through(server(lambda stream, _: stream.sendall(ESTABLISHED))), method, get_retries=0)
    assert type(error) is errors.NotSent
    assert error.took < QUICK.connect + SLACK


# --- Sent, and so unknown


@pytest.mark.parametrize(("method", "calls"), [("get_run", 3), ("cancel_run", 1)])
def test_a_cut_after_the_request_is_no_answer(server, tls, through, method, calls):
    """The library calls this a proxy error too."""
    arize = server(lambda *_: "close", tls=tls)
    error = failure(through(server(tunnel_to(arize.port))), method)
    assert (type(error), len(arize.requests)) == (errors.NoAnswer, calls)


@BOTH
def test_an_answer_that_drips_through_a_tunnel_is_held_to_the_deadline(server, tls, through, method):
    over = threading.Event()
    arize = server(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{", over), tls=tls)
    error = failure(through(server(tunnel_to(arize.port))), method)
    over.set()
    assert type(error) is errors.NoAnswer
    assert error.took < QUICK.call + SLACK


def test_a_proxy_that_fails_on_the_retry_does_not_undo_what_was_sent(server, tls, through):
    arize = server(lambda *_: "close", tls=tls)
    first = tunnel_to(arize.port)

    def serve(stream, head):
        return (first if len(proxy.requests) == 1 else refuse(503))(stream, head)

    proxy = server(serve)
    assert type(failure(through(proxy), "get_run")) is errors.NoAnswer


# --- Without the proxy


def test_a_direct_host_still_meets_the_fence(server, through):
    proxy = server(refuse(403))
    error = failure(through(proxy, direct=["https://localhost:9"]), "cancel_run", "https://localhost:9")
    assert (type(error), proxy.requests) == (errors.NotSent, [])
    error = failure(through(proxy), "cancel_run", f"https://arize.test:{proxy.port}")
    assert len(proxy.requests) == 1, "the control"
    assert "refused" in error.sentence


def test_plain_http_is_sent_directly(server, through):
    arize, proxy = server(say(answer())), server(refuse(403))
    with ArizeClient(arize.url, KEY, network=through(proxy)) as client:
        client.get_run("r1")
    assert (len(arize.requests), proxy.connections) == (1, 0)


PRIVATE = [
    *("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "10.0.0.5", "192.168.1.1", "169.254.169.254"),
    *("2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[fd00::1]", "[::ffff:10.0.0.1]", "0.0.0.0"),
]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_is_never_requested_from_the_proxy(server, through, host):
    proxy = server(refuse(403))
    error = failure(through(proxy), "cancel_run", f"https://{host}")
    assert (type(error), proxy.connections) == (errors.NotSent, 0)
    assert is_private_by_name(host)


@pytest.mark.parametrize(
    "host", ["api.arize.com", "10.example.com", "8.8.8.8", "[2606:4700::1111]", "local", "1e100.net"]
)
def test_other_names_are_requested_from_the_proxy(host):
    assert not is_private_by_name(host)


def test_library_sessions_use_the_proxy_too(server, tls, through):
    provider = server(say(answer()), tls=tls)
    proxy = server(tunnel_to(provider.port))
    with Session(Egress(QUICK, network=through(proxy)), auth=Bearer(KEY)) as session:
        assert session.post(f"{ISSUER}/token", proxies={"https": "http://127.0.0.1:9"}, verify=False).status_code == 200
    assert proxy.requests[0].startswith(b"CONNECT id.example.com:443 ")


def test_no_object_of_a_library_holds_the_password(server, through):
    proxy = server(refuse(407))
    with Session(Egress(QUICK, network=through(proxy))) as session, pytest.raises(OSError) as caught:
        session.post(f"{ISSUER}/token")
    error, seen = caught.value, ""
    while error is not None:
        seen += repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    assert PASSWORD not in seen
    assert "s3kr3t" not in seen
    assert "s3kr3t" not in repr(through(proxy))


# --- The panel's own acts


@pytest.fixture
def behind_proxy(db, settings, run, through):
    """`behind_proxy(proxy)`: the key of the run is for an Arize that only the proxy reaches."""

    def set_up(proxy):
        settings.NETWORK = through(proxy)
        for model in (Credential, Run, Task):
            model.objects.update(endpoint=ARIZE)
        return Run.objects.get(pk=run.pk)

    return set_up


def test_a_cancel_that_the_proxy_refused_was_not_sent(server, behind_proxy, oli, client_of):
    run = behind_proxy(server(refuse(403)))
    page = click_cancel(client_of(oli), run, htmx=True).content.decode()
    assert Cancellation.objects.get().outcome == "not_sent"
    assert [row.outcome for row in AuditEvent.objects.filter(event="run.cancel")] == ["requested", "not_sent"]
    assert "The proxy refused the connection to Arize (403)." in page


def test_a_cancel_that_was_cut_off_behind_the_proxy_is_unknown(server, tls, behind_proxy, oli):
    arize = server(lambda *_: "close", tls=tls)
    run = behind_proxy(server(tunnel_to(arize.port)))
    assert cancellations.cancel(run, by=actor(oli)).outcome == "unknown"
    assert sum(head.startswith(b"POST") for head in arize.requests) == 1


def test_a_cancel_through_the_proxy_is_confirmed(server, tls, behind_proxy, oli):
    arize = server(lambda stream, _: stream.sendall(answer(body=said)), tls=tls)
    run = behind_proxy(server(tunnel_to(arize.port)))
    said = json.dumps(wire_run(run, "CANCELLED")).encode()
    assert cancellations.cancel(run, by=actor(oli)).outcome == "confirmed"


def test_a_round_of_the_mirror_goes_through_the_proxy(server, tls, behind_proxy, credential):
    empty = b'{"tasks": [], "spaces": [], "pagination": {"has_more": false}}'
    arize = server(say(answer(body=empty)), tls=tls)
    proxy = server(tunnel_to(arize.port))
    behind_proxy(proxy)
    mirror.refresh(credential.pk)
    assert any(head.startswith(b"GET /v2/tasks") for head in arize.requests)
    assert {head.split(b" ")[0] for head in proxy.requests} == {b"CONNECT"}


def test_a_round_says_what_the_proxy_did(server, behind_proxy, credential):
    behind_proxy(server(refuse(407)))
    report = mirror.refresh(credential.pk)
    assert "The proxy refused" in report.problem


# --- Single sign-on


@pytest.fixture
def issuer(settings, db):
    settings.OIDC = Provider(issuer=ISSUER, client_id="panel", client_secret="a-secret")


def test_discovery_goes_through_the_proxy(server, tls, through, settings, issuer):
    provider = server(say(answer(body=b'{"issuer": "https://id.example.com"}')), tls=tls)
    proxy = server(tunnel_to(provider.port))
    settings.NETWORK = through(proxy)
    found = sso_provider._fetched(settings.OIDC.discovery_url)
    assert found == {"issuer": ISSUER}
    assert proxy.requests[0].startswith(b"CONNECT id.example.com:443 ")


def test_a_refused_discovery_is_an_error_page_and_a_word_in_the_log(server, through, settings, issuer, client, caplog):
    settings.NETWORK = through(server(refuse(407)))
    with caplog.at_level(logging.WARNING):
        page = client.post("/accounts/sso/")
    assert page.status_code == 502
    text = page.content.decode() + caplog.text
    assert "proxy password" in caplog.text
    assert "s3kr3t" not in text
