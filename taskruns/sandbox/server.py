"""The simulated Arize on a port: sockets and HTTP. The answers come from `api.py` and `controls.py`."""

import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .messages import Answer, Problem, Request, problem_answer, reason_phrase
from .simulation import HangUp, Settings, Simulation

LARGEST_BODY = 1_000_000
_IDLE_S = 120
_BODILESS = {204, 304}


class _Handler(BaseHTTPRequestHandler):
    """One connection. Python's parser reads the head; each answer is sent in one call."""

    server: "_Server"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_S

    def _serve(self) -> None:
        try:
            request = self._read()
            answer = self.server.simulation.answer(request)
        except Problem as problem:
            self._refuse(problem)
        except HangUp:
            self.close_connection = True
        else:
            self._write(answer)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = do_OPTIONS = _serve  # noqa: N815 - the parser's names

    def _read(self) -> Request:
        """Raises Problem for a body that is not accepted, HangUp if the client disconnected while sending it."""
        length = self._body_length()
        body = self.rfile.read(length)
        if len(body) < length:
            raise HangUp
        path, _, query = self.path.partition("?")
        return Request(self.command, path, query, tuple(self.headers.items()), body)

    def _body_length(self) -> int:
        text = self.headers.get("Content-Length", "0").strip()
        if "Transfer-Encoding" in self.headers:
            raise Problem(411, "A body needs a Content-Length.")
        if not (text.isascii() and text.isdigit()):
            raise Problem(400, "Content-Length is not a number.")
        if len(text) > len(str(LARGEST_BODY)) or int(text) > LARGEST_BODY:
            raise Problem(413, f"A body can have at most {LARGEST_BODY} bytes.")
        return int(text)

    def _refuse(self, problem: Problem) -> None:
        """Answer and close, because the start of the next request on this connection is unknown."""
        self.close_connection = True
        self._write(problem_answer(problem, instance="", request_id="req_unread"))
        self._drain()

    def _drain(self) -> None:
        """Read the rest of the request, up to 8 MB or 2 s of silence.

        Closing earlier would reset the connection before the client has read the answer.
        """
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(2)
        read = 0
        while read < 8 * LARGEST_BODY and (data := self.connection.recv(65_536)):
            read += len(data)

    def _write(self, answer: Answer) -> None:
        body = b"" if answer.status in _BODILESS else answer.body
        headers = {"Date": formatdate(usegmt=True), **answer.headers, "Content-Length": str(len(body))}
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {answer.status} {reason_phrase(answer.status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.connection.sendall(head if self.command == "HEAD" else head + body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Python's parser calls this for invalid HTTP and unknown methods."""
        del explain
        self._refuse(Problem(code, message or "The request cannot be read."))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Silent: `GET /sandbox/requests` is the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], simulation: Simulation) -> None:
        self.simulation = simulation
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Skip the parent's host name lookup, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; anything else is a bug of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        for connection in self._connections.copy():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client already closed it


class RunningServer:
    """A running server. `url` has no trailing slash."""

    def __init__(self, *, server: _Server, host: str) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, end waiting faults and close connections."""
        self._server.simulation.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()


def start(settings: Settings, *, host: str = "127.0.0.1", port: int = 0) -> RunningServer:
    """Port 0 picks a free one. Raises OSError if the address is not available, and UnreadableKeys."""
    return RunningServer(server=_Server((host, port), Simulation(settings)), host=host)


@contextmanager
def running(settings: Settings) -> Iterator[RunningServer]:
    """A server on a free loopback port, stopped at the end of the block."""
    server = start(settings)
    try:
        yield server
    finally:
        server.stop()
