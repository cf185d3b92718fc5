"""A web application for tests of the web server: it reads the body, `/big` returns a large response, `/process` the id
of the process, and the response of `/broken` fails after its first piece.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

BIG = b"x" * 2_000_000


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    answer = {"/big": BIG, "/process": b"%d" % os.getpid()}.get(environ["PATH_INFO"], b"%d" % len(body))
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return _broken(answer) if environ["PATH_INFO"] == "/broken" else [answer]


def _broken(piece: bytes) -> Iterator[bytes]:
    yield piece[:-1]
    raise ValueError("the response fails")
