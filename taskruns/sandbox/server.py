"""The simulated Arize on a port.

**Under /v2** (each request with `Authorization: Bearer <key>`): GET spaces, spaces/{id}, tasks, tasks/{id},
tasks/{id}/runs, task-runs/{id}, users/{id} and POST task-runs/{id}/cancel, tasks/{id}/trigger, as Arize answers
them. Lists take `limit` (1-100, default 50) and `cursor`; tasks also `space_id`, `space_name`, `name`, `project_id`,
`dataset_id`, `type`; the runs of a task `status`; spaces `name`, `org_id`. Lists are ordered newest first. A run that
was triggered is pending for 20 s and then lives like others; the key's bot user is who triggered it. Names of
experiments are unique in their dataset, among those triggered.

**Under /sandbox** (no key; JSON in, JSON out; unknown members or nonsense: 400 with a sentence):

POST /sandbox/faults      adds one, or several as `{"faults": [..]}`; answers 201 `{"added": [numbers]}`
    which requests        `method`, `path` (part of the raw path, without the query), `path_regex`, `key`;
                          all optional
    what happens          `latency_ms`, with `latency_at` "before" (default) or "after" the work was done;
                          and one of
                          `status` with `headers`, `title`, `detail` or a raw `body`;
                          `answer` "html" (a gateway's 502 page) or "malformed" (200, JSON that breaks off);
                          both with `answer_at` "before" (default: no work is done) or "after" it was done;
                          `cut` "before" (no work done) or "after" (done, but closed without an answer);
                          `hang` "before" or "after": never an answer, the line stays open (10 min at most)
    what a cancel does    `cancel_takes_seconds` (200 and the run goes on, cancelled after so much simulated
                          time), `cancel` "ignored" (200 and the run goes on) or "only_claimed" (200, says
                          CANCELLED, and the run goes on); these meet cancels only
    how often             `count` (the first N) or `share` (0 to 1, drawn from the seed) or `per_second` (what
                          exceeds N a second of real time; alone it is a rate limit: 429 with Retry-After; N at
                          once are let through, then one each 1/N s); none: every time.
                          The first fault that matches and is due meets the request, at most one. It comes
                          before the key is looked at, as a gateway's would.
GET /sandbox/faults       lists them, with how often each `matched` and `fired`
DELETE /sandbox/faults    removes all
GET /sandbox/requests     what came in outside /sandbox: `{"requests": [{n, at, method, path, query, headers,
                          status, fault, in_flight}], "total"}`; newest last, the last 10,000; keys redacted;
                          `status` null when cut or not yet answered; `?method=` and `?path=` (a part) filter;
                          `total` counts all since the start
POST /sandbox/reset       world, clock, faults and requests as at the start
POST /sandbox/runs        `{"task": id or name, "status": "running", "count": 1, "failure_reason": text}` adds
                          runs now; active ones live on by themselves; answers 201 `{"runs": [..]}`, oldest first
PATCH /sandbox/runs/{id}  `{"status": .., "failure_reason": ..}` sets a run, which stays so from then on
POST /sandbox/clock       `{"advance_seconds": n}` moves simulated time; GET tells it
"""

import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from taskruns.sandbox.messages import Answer, Request, problem_answer
from taskruns.sandbox.problems import Problem, reason_phrase
from taskruns.sandbox.simulation import Hangup, Settings, Simulation

LARGEST_BODY = 1_000_000
_IDLE_S = 120
_BODILESS = {204, 304}


class _Handler(BaseHTTPRequestHandler):
    """One connection. Python's own parser reads the head; answers are written here, whole, in one send."""

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
        except Hangup:
            self._hang_up()
        else:
            self._write(answer)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = do_OPTIONS = _serve  # noqa: N815 - the parser's names

    def _read(self) -> Request:
        """Raises Problem for a body that cannot be taken, Hangup when the client vanished within it."""
        length = self._body_length()
        body = self.rfile.read(length)
        if len(body) < length:
            raise Hangup
        path, _, query = self.path.partition("?")
        return Request(self.command, path, query, tuple(self.headers.items()), body)

    def _body_length(self) -> int:
        text = self.headers.get("Content-Length", "0").strip()
        if "Transfer-Encoding" in self.headers:
            raise Problem(411, "A body needs a Content-Length.")
        if not (text.isascii() and text.isdigit()):
            raise Problem(400, "Content-Length is not a number.")
        if len(text) > len(str(LARGEST_BODY)) or int(text) > LARGEST_BODY:
            raise Problem(413, f"A body may have {LARGEST_BODY} bytes at most.")
        return int(text)

    def _refuse(self, problem: Problem) -> None:
        """Says why, and closes: what follows on the wire cannot be told apart."""
        self.close_connection = True
        self._write(problem_answer(problem, instance="", request_id="req_unread"))
        self._drain()

    def _drain(self) -> None:
        """Takes what is still being sent: closing on it would reset the line before the answer is read.

        At most 8 MB and 2 s of silence.
        """
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(2)
        taken = 0
        while taken < 8 * LARGEST_BODY and (data := self.connection.recv(65_536)):
            taken += len(data)

    def _hang_up(self) -> None:
        self.close_connection = True

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
        """Called by Python's parser for what is no HTTP, and for methods of no known name."""
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
        """Without the parent's look-up of the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that vanishes is no news; anything else is a bug of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        for connection in self._connections.copy():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster


class RunningServer:
    """A server that answers. `url` has no slash at its end."""

    def __init__(self, *, server: _Server, host: str) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends listening, waiting faults and open connections."""
        self._server.simulation.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()


def start(settings: Settings, *, host: str = "127.0.0.1", port: int = 0) -> RunningServer:
    """Port 0 takes a free one. Raises OSError for an address that cannot be had, UnreadableKeys."""
    return RunningServer(server=_Server((host, port), Simulation(settings)), host=host)


@contextmanager
def running(settings: Settings) -> Iterator[RunningServer]:
    """A server on a free port of the loopback, stopped at the end."""
    server = start(settings)
    try:
        yield server
    finally:
        server.stop()
