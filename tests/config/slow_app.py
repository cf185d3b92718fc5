"""A web application for tests of the web server: it reads the body, and `/big` returns a large response."""

from collections.abc import Callable, Iterable
from typing import Any

BIG = b"x" * 2_000_000


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    answer = BIG if environ["PATH_INFO"] == "/big" else b"%d" % len(body)
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
