"""Streamed downloads. Each holds a lease, and one that takes too long is ended, to free the thread."""

import errno
import time
from collections.abc import Callable, Iterable, Iterator

import structlog
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse

from taskruns.access import gate
from taskruns.access.gate import PanelRequest, spend
from taskruns.models import Team
from taskruns.permissions import Action, access_of
from taskruns.services import leases
from taskruns.services.leases import Busy, HeldLease

from .errors import error_page

log = structlog.get_logger(__name__)

LONGEST_DOWNLOAD = 15 * 60  # seconds
CHUNK = 32_768  # bytes


class DownloadEnded(ConnectionResetError):
    """It took too long, lost its lease, or its reader lost the right to it. Gunicorn closes the connection and logs no
    traceback, as for a client that went away. The client sees that the file is incomplete.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "The download was ended.")


def download(
    request: PanelRequest, action: Action, start: Callable[[], tuple[str, Iterable[str]]], *, content_type: str
) -> HttpResponseBase:
    """Stream a file. `start` returns its name and its parts; it is called when the lease is held, and may raise.

    It ends early if its reader loses the right to `action`. Returns 429 if too many exports are running. Raises
    TooManyActs.
    """
    spend(request, gate.EXPORTS)
    try:
        held = leases.acquire(leases.EXPORT, request.user, still_may=_right(request, action))
    except Busy as error:
        return _busy(request, error)
    try:
        name, parts = start()
    except BaseException:
        held.release()
        raise
    response = StreamingHttpResponse(_Stream(parts, held), content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _right(request: PanelRequest, action: Action) -> Callable[[], bool]:
    """Whether the reader still has the right, read from the database each time."""
    person, team = request.user, request.team

    def is_held() -> bool:
        now = None if team is None else Team.objects.filter(pk=team.pk).first()
        return access_of(person, now).may(action)

    return is_held


def _busy(request: PanelRequest, error: Busy) -> HttpResponse:
    response = error_page(request, 429, "Too many exports", error.sentence)
    response["Retry-After"] = str(leases.RETRY_AFTER)
    return response


class _Stream:
    """The server calls `close` at the end of every response, even if nothing was sent."""

    def __init__(self, parts: Iterable[str], held: HeldLease) -> None:
        self._chunks = _chunks(parts)
        self._held = held
        self._ends = time.monotonic() + LONGEST_DOWNLOAD

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if time.monotonic() > self._ends or not self._held.extend():
            log.warning("download_ended")
            raise DownloadEnded
        return next(self._chunks)

    def close(self) -> None:
        self._held.release()


def _chunks(parts: Iterable[str]) -> Iterator[bytes]:
    """Split the text into chunks: large enough to be fast, small enough for a slow client to read one in time."""
    waiting = bytearray()
    for part in parts:
        waiting += part.encode()
        while len(waiting) >= CHUNK:
            yield bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
    if waiting:
        yield bytes(waiting)
