"""Slow clients hold a few threads of the web server, never all of them."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from threading import BoundedSemaphore

import pytest

from config import web_worker
from config.processes import stop
from config.web_worker import SlowClient, TimedSocket
from tests.config.slow_app import BIG
from tests.paths import ROOT
from tests.processes import free_ports, wait_for

pytestmark = pytest.mark.slow
THREADS = 4
CROWD = 3 * THREADS
WITHIN = 15  # seconds
QUICK_ENOUGH = 10  # seconds for 20 answers


@contextmanager
def served(*, limit: int = 0) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The port of a web server, and its process. `limit`: of open files."""
    (port,) = free_ports(1)
    options = ["-c", "/dev/null", "-k", "config.web_worker.Worker", "--threads", str(THREADS), "--keep-alive", "75"]
    limited = ["prlimit", f"--nofile={limit}"] if limit else []
    command = [
        *limited,
        sys.executable,
        "-m",
        "gunicorn",
        *options,
        "-b",
        f"127.0.0.1:{port}",
        "tests.config.slow_app:app",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: answers(port), "the web server", within=WITHIN)
        yield port, process
    finally:
        stop([process])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served() as (port, _):
        yield port


def answers(port: int, *, within: float = WITHIN) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read() == b"0"
    except OSError:
        return False
    finally:
        connection.close()


def crowd(stack: ExitStack, port: int, sent: bytes) -> list[socket.socket]:
    found = []
    for _ in range(CROWD):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", port))
        client.sendall(sent)
        found.append(client)
    return found


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: ", id="half a header"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf", id="half a body"),
        pytest.param(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5, id="reads nothing"),
    ],
)
def test_slow_clients_leave_threads_to_others(sent: bytes, port: int):
    with ExitStack() as stack:
        crowd(stack, port, sent)
        assert answers(port), "as long as all of them are still connected"
        began = time.monotonic()
        assert all(answers(port) for _ in range(20))
        assert time.monotonic() - began < QUICK_ENOUGH


def test_silent_connections_hold_no_thread(port: int):
    with ExitStack() as stack:
        crowd(stack, port, b"")
        assert answers(port, within=2)


def test_an_idle_connection_is_kept_longer_than_one_that_sent_nothing(port: int):
    """A load balancer reuses connections. Whoever only opens them must not hold them as long."""
    used = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
    with closing(used), socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as silent:
        used.request("GET", "/")
        assert used.getresponse().read() == b"0"
        before = used.sock
        assert silent.recv(1) == b"", "closed after FIRST_BYTE"
        used.request("GET", "/")
        assert used.getresponse().read() == b"0"
        assert used.sock is before


def test_clients_that_never_close_delay_nobody(port: int):
    with ExitStack() as stack:
        crowd(stack, port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        assert all(answers(port) for _ in range(20))
        assert time.monotonic() - began < QUICK_ENOUGH


def test_a_stopping_server_refuses_new_connections_at_once():
    """A proxy asks another host if it is refused, but not if it is cut off after it has sent a click."""
    with served() as (port, process), socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
        assert answers(port), "which comes after the server has accepted the slow client"
        process.terminate()
        wait_for(lambda: is_refused(port), "a refused connection", within=5)
        slow.sendall(b"x" * 50)
        assert slow.recv(1_000).startswith(b"HTTP/1.1 200"), "the slow client is still being served"


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def hear_nothing(client: socket.socket, seconds: float) -> None:
    client.settimeout(seconds)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(WITHIN)


def test_one_slow_client_gets_its_answer(port: int):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n")
        hear_nothing(client, 0.8)
        client.sendall(b"Connection: close\r\nContent-Length: 6\r\n\r\nabc")
        hear_nothing(client, 0.8)
        client.sendall(b"def")
        answer = b"".join(iter(lambda: client.recv(4_096), b""))
    assert answer.endswith(b"\r\n\r\n6")


def test_slow_reader_gets_the_whole_answer(port: int):
    with socket.create_connection(("127.0.0.1", port)) as client, socket.create_connection(("127.0.0.1", port)) as idle:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        hear_nothing(idle, 1.5)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.endswith(b"\r\n\r\n" + BIG)


def test_a_response_that_fails_midway_ends_no_other():
    """With the process, all its requests would be lost."""
    with served() as (port, _):
        before = served_by(port)
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
            connection.request("POST", "/broken", body=b"12")
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                connection.getresponse().read()
            connection.close()
            assert served_by(port) == before


def served_by(port: int) -> bytes:
    """The id of the process that answers."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)) as connection:
        connection.request("GET", "/process")
        return connection.getresponse().read()


def test_a_client_that_stops_reading_is_disconnected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web_worker, "QUICK", 0.1)
    monkeypatch.setattr(web_worker, "LONGEST_PIECE", 0.3)
    ours, theirs = socket.socketpair()
    with theirs, TimedSocket(fileno=ours.detach()) as client:
        client.begin(BoundedSemaphore(1))
        with pytest.raises(SlowClient):
            client.sendall(BIG)


def test_a_stream_of_half_requests_takes_no_thread_from_others():
    """Each would hold a thread for a second, and more come than threads become free."""
    half = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf"
    with served() as (port, _), ExitStack() as stack:
        for _round in range(5):
            crowd(stack, port, half)
            crowd(stack, port, half)
            assert answers(port, within=3)


def test_a_server_without_room_for_connections_goes_on():
    with served(limit=64) as (port, _):
        before = served_by(port)
        with ExitStack() as stack:
            for _ in range(100):
                client = stack.enter_context(socket.socket())
                client.settimeout(WITHIN)
                client.connect(("127.0.0.1", port))
        wait_for(lambda: answers(port), "room again", within=WITHIN)
        assert served_by(port) == before


def test_places_are_given_back(port: int):
    """After slow clients that disconnected, and after those that were served."""
    for _ in range(3):
        with ExitStack() as stack:
            crowd(stack, port, b"GET / HTTP/1.1\r\nHost: ")
            assert answers(port)
    test_one_slow_client_gets_its_answer(port)
