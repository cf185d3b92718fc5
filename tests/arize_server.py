"""A fast fake Arize on a real socket, for tests with threads. It can check the database before it answers."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.db import connection


@dataclass
class ArizeServer:
    """`answer(method, path)` returns status and JSON; `on_arrival(path)` is called first, in the server's thread."""

    answer: Callable[[str, str], tuple[int, Any]]
    on_arrival: Callable[[str], None] = lambda _: None
    received: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)  # the Authorization of each call, in the same order
    faults: list[BaseException] = field(default_factory=list)
    url: str = ""

    def posts(self) -> list[str]:
        return [line for line in self.received if line.startswith("POST")]

    def take(self, method: str, path: str, key: str | None = None) -> tuple[int, Any]:
        self.received.append(f"{method} {path}")
        self.keys.append(key)
        try:
            self._arrived(path)
            return self.answer(method, path)
        finally:
            connection.close()

    def _arrived(self, path: str) -> None:
        try:
            self.on_arrival(path)
        except Exception as fault:  # noqa: BLE001 - kept for the test, because exceptions in this thread are lost
            self.faults.append(fault)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    double: ArizeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that no longer waits for its answer is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        status, document = self.server.double.take(self.command, self.path, self.headers.get("Authorization"))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(double: ArizeServer) -> Iterator[ArizeServer]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.double = double
    double.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
