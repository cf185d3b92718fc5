"""The log of requests outside /sandbox, with all keys redacted."""

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .messages import Request, iso

KEPT = 10_000
_SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie", "x-api-key"}
# Of a shorter secret, even two characters would reveal too much.
_SHORTEST_WITH_ENDING = 8


@dataclass(slots=True)
class LoggedRequest:
    """`status` is None until the answer is known, and stays None if the connection is cut."""

    number: int
    at: datetime
    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int | None = None
    fault: int | None = None
    in_flight: bool = True

    @property
    def request_id(self) -> str:
        return f"req_{self.number:08d}"

    def close(self, *, status: int | None) -> None:
        """Call it before sending the answer, so that a client that has its answer finds the status here."""
        self.status = status
        self.in_flight = False

    def document(self) -> dict[str, object]:
        return {
            "n": self.number,
            "at": iso(self.at),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers,
            "status": self.status,
            "fault": self.fault,
            "in_flight": self.in_flight,
        }


@dataclass(slots=True)
class RequestLog:
    """The last 10,000 requests, in order of arrival."""

    keys: Collection[str]
    _kept: deque[LoggedRequest] = field(default_factory=lambda: deque(maxlen=KEPT))
    _total: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: Request) -> LoggedRequest:
        secrets = [*self.keys, request.bearer or ""]
        headers = {name: _redacted(name, value, secrets=secrets) for name, value in request.headers}
        with self._lock:
            self._total += 1
            logged = LoggedRequest(
                number=self._total,
                at=datetime.now(UTC),
                method=request.method,
                path=_without(request.path, secrets),
                query=_without(request.query, secrets),
                headers=headers,
            )
            self._kept.append(logged)
        return logged

    def listing(self, *, method: str | None, path: str | None) -> dict[str, object]:
        """`total` counts all requests since the start, regardless of filters and of the size of the log."""
        with self._lock:
            kept, total = list(self._kept), self._total
        shown = [one.document() for one in kept if method in {None, one.method} and (path or "") in one.path]
        return {"requests": shown, "total": total}


def _redacted(name: str, value: str, *, secrets: Collection[str]) -> str:
    if name.lower() not in _SECRET_HEADERS:
        return _without(value, secrets)
    scheme, space, secret = value.rpartition(" ")
    ending = secret[-2:] if len(secret) >= _SHORTEST_WITH_ENDING else ""
    # A scheme is one word. Anything else before the last space may be part of a secret.
    return f"{scheme if scheme.isalpha() else ''}{space}…{ending}"


def _without(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        # A very short key ("a") would match everywhere, and is not a real secret.
        text = text.replace(secret, "…") if len(secret) > 3 else text
    return text
