"""A hostile answer of Arize, 20 MB of empty objects in 20 kB on the wire, compared with a page of 100 runs."""

import contextlib
import gzip
import http.server
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError
from tests.bench.table import Figure, median_ms
from tests.paths import CANCEL_ANSWER

TIMES = 5
_RUN = json.loads(CANCEL_ANSWER.read_text())
BODIES = {
    "page": json.dumps({"task_runs": [{**_RUN, "id": f"run-{number}"} for number in range(100)]}).encode(),
    "hostile": b'{"task_runs":[' + b"{}," * 7_000_000 + b"{}]}",
}


class _Arize(http.server.BaseHTTPRequestHandler):
    sent = {name: gzip.compress(body) for name, body in BODIES.items()}

    def do_GET(self) -> None:
        body = self.sent[self.path.split("/")[3]]
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client stops reading
            self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Log nothing between the results."""


def measure() -> list[Figure]:
    with _server() as url, ArizeClient(url, "ak-bench-key-0123456789") as client:

        def read(task: str) -> None:
            with contextlib.suppress(ArizeError):
                client.list_runs(task)

        took = {task: median_ms(lambda _number, task=task: read(task), range(TIMES)) for task in BODIES}
        peaks = {task: _peak_mb(lambda task=task: read(task)) for task in BODIES}
    what, page = f"an answer of {len(BODIES['hostile']) // 1_000_000} MB", "a page of 100 runs"
    return [
        Figure(f"{what} (p50)", took["hostile"], "ms", took["page"], page, "<= 1 s"),
        Figure(f"{what}, peak memory", peaks["hostile"], "MB", peaks["page"], page, "<= 30 MB"),
    ]


def _peak_mb(act: Callable[[], None]) -> float:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / 1_000_000
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Arize) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
