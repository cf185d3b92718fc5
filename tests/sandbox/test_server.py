"""The simulated Arize as a server and a process: connections, signals, arguments."""

import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from taskruns.sandbox.keys import UnreadableKeys, read_keys
from taskruns.sandbox.server import running, start
from taskruns.sandbox.simulation import Settings
from tests.paths import ROOT

from .caller import Caller

pytestmark = pytest.mark.slow

SETTINGS = Settings(keys={"ak-full-key-1": ()}, tasks=4, speed=0)


@pytest.fixture
def arize() -> Iterator[Caller]:
    with running(SETTINGS) as server:
        yield Caller(server.url)


def raw(arize: Caller, sent: bytes) -> bytes:
    """The server's whole answer to these bytes, until it closes the connection."""
    address = urlsplit(arize.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    return answer


# Connections


def test_answers_on_one_connection_are_not_delayed(arize: Caller) -> None:
    connection = http.client.HTTPConnection(urlsplit(arize.url).netloc, timeout=10)
    arize.call_on(connection, "GET", "/v2/spaces")
    sock, seconds = connection.sock, []
    for _ in range(20):
        began = time.monotonic()
        assert arize.call_on(connection, "GET", "/v2/tasks").status == 200
        seconds.append(time.monotonic() - began)
    assert connection.sock is sock, "the connection was not kept"
    assert statistics.median(seconds) < 0.04 / 2, "a delayed acknowledgement takes 0.04 s"
    connection.close()


def test_answer_is_sent_in_one_piece(arize: Caller) -> None:
    address = urlsplit(arize.url)
    request = b"GET /v2/spaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ak-full-key-1\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        for _ in range(5):
            connection.sendall(request)
            head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
            assert len(body) > 100


def test_200_parallel_connections_are_answered(arize: Caller) -> None:
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: arize.get("/v2/spaces").status, range(200)))
    assert answers == [200] * 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"BREW /v2/tasks HTTP/1.1\r\n\r\n", b"501"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"POST /sandbox/faults HTTP/1.1\r\nContent-Length: 6000000\r\n\r\n" + b"x" * 6_000_000, b"413"),
        (b"POST /sandbox/faults HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /sandbox/faults HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"HEAD /v2/tasks HTTP/1.1\r\nConnection: close\r\n\r\n", b"401"),
    ],
)
def test_invalid_http_gets_one_answer(
    arize: Caller, capfd: pytest.CaptureFixture[str], sent: bytes, status: bytes
) -> None:
    answer = raw(arize, sent)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert arize.get("/v2/spaces").status == 200
    assert capfd.readouterr() == ("", "")


def test_client_that_disconnects_prints_nothing(arize: Caller, capfd: pytest.CaptureFixture[str]) -> None:
    address = urlsplit(arize.url)
    arize.post("/sandbox/faults", {"path": "/v2/tasks", "latency_ms": 100})
    for sent in (b"GET /v2/tasks HTTP/1.1\r\n\r\n", b"POST /v2/tasks HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", b"GE"):
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            # Linger 0 closes the connection with a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(sent)
    assert arize.get("/v2/tasks").status == 200
    assert capfd.readouterr() == ("", "")


def test_stopped_server_closes_connections_and_waiting_faults() -> None:
    server = start(SETTINGS)
    arize = Caller(server.url)
    arize.post("/sandbox/faults", {"path": "/v2/tasks", "latency_ms": 60_000})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(arize.get, "/v2/tasks")
        while not arize.get("/sandbox/requests").json["requests"]:
            pass
        server.stop()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            waiting.result(timeout=5)
    with pytest.raises(ConnectionRefusedError):
        arize.get("/v2/spaces")


# Command line


def launch(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "taskruns.sandbox", *arguments],
        cwd=ROOT,
        env={**os.environ, "SANDBOX_KEYS": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_reports_ready_and_exits_on_a_signal(number: signal.Signals) -> None:
    process = launch("--port", "0", "--tasks", "8", SANDBOX_KEYS="ak-a; ak-b=support-bot,search-ranking")
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:3] == ["sandbox", "ready", "on"]
        counts = [len(Caller(words[3], key).tasks()) for key in ("ak-a", "ak-b")]
        began = time.monotonic()
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", "")
    finally:
        process.kill()
    assert (counts, process.returncode) == ([8, 4], 0)
    assert time.monotonic() - began < 8


def test_taken_port_is_explained(arize: Caller) -> None:
    port = str(urlsplit(arize.url).port)
    process = launch("--port", port, "--key", "ak-secret")
    assert process.communicate(timeout=60) == ("", f"Port {port} on 127.0.0.1 is taken; choose another with --port.\n")
    assert process.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["--key", "ak-secret=no-such-space"], ["--key", "ak-secret="], ["--key", "ak-secret", "--key", "ak-secret"]],
)
def test_unreadable_keys_are_rejected_and_not_printed(arguments: list[str]) -> None:
    process = launch("--port", "0", *arguments)
    out, error = process.communicate(timeout=60)
    assert (out, process.returncode, error.count("\n")) == ("", 1, 1)
    assert "key" in error
    assert "ak-secret" not in error


@pytest.mark.parametrize("arguments", [["--speed", "nan"], ["--tasks", "0"], ["--port", "70000"], ["--wire", "loud"]])
def test_arguments_out_of_range_are_rejected(arguments: list[str]) -> None:
    process = launch("--port", "0", "--key", "ak-a", *arguments)
    assert arguments[0] in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_keys_are_read_with_their_spaces() -> None:
    assert read_keys(["ak-a", "ak-b=support-bot, fraud-watch"]) == {"ak-a": (), "ak-b": ("support-bot", "fraud-watch")}
    with pytest.raises(UnreadableKeys):
        read_keys(["two words"])
