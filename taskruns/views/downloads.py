"""Files that are streamed: each holds a lease, and a reader who is too slow loses the thread."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator

import structlog
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse

from taskruns.access import gate
from taskruns.access.gate import PanelRequest, spend
from taskruns.services import leases
from taskruns.services.leases import Busy, Held

from .errors import error_page

log = structlog.get_logger(__name__)

LONGEST_DOWNLOAD = 15 * 60  # seconds
SLOWEST_PIECE = 30  # seconds in which a reader must take one piece
PIECE = 32_768  # bytes, about


class SlowReader(Exception):
    """The reader took too long. The connection is closed, so the file is visibly incomplete."""


def download(
    request: PanelRequest, start: Callable[[], tuple[str, Iterable[str]]], *, content_type: str
) -> HttpResponseBase:
    """Stream the file that `start` returns, as its name and its parts. `start` is called once a lease is held.

    Answers 429 if too many exports are running. Raises TooManyActs; `start` may raise too.
    """
    spend(request, gate.EXPORTS)
    try:
        held = leases.take(leases.EXPORT, request.user)
    except Busy as error:
        return _busy(request, error)
    try:
        name, parts = start()
    except BaseException:
        held.release()
        raise
    _limit_silence(request)
    response = StreamingHttpResponse(_Stream(parts, held), content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _busy(request: PanelRequest, error: Busy) -> HttpResponse:
    response = error_page(request, 429, "Too many exports", error.sentence)
    response["Retry-After"] = str(leases.RETRY_AFTER)
    return response


def _limit_silence(request: PanelRequest) -> None:
    """Gunicorn itself waits for ever for a reader who takes nothing."""
    connection = request.META.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        connection.settimeout(SLOWEST_PIECE)


class _Stream:
    """An iterator whose `close` is called by the server however the response ends, even before the first part."""

    def __init__(self, parts: Iterable[str], held: Held) -> None:
        self._pieces = _pieces(parts)
        self._held = held
        self._ends = time.monotonic() + LONGEST_DOWNLOAD

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if time.monotonic() > self._ends or not self._held.extend():
            log.warning("slow_download")
            raise SlowReader
        return next(self._pieces)

    def close(self) -> None:
        self._held.release()


def _pieces(parts: Iterable[str]) -> Iterator[bytes]:
    """The same text in pieces of about the same size: long enough to be quick, short enough for a slow reader."""
    waiting = bytearray()
    for part in parts:
        waiting += part.encode()
        while len(waiting) >= PIECE:
            yield bytes(waiting[:PIECE])
            del waiting[:PIECE]
    if waiting:
        yield bytes(waiting)
