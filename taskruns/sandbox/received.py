"""What was received under /v2, without any key."""

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from taskruns.sandbox.clock import iso
from taskruns.sandbox.messages import Request

KEPT = 10_000
_SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie", "x-api-key"}
# Two characters of a shorter secret would be too much of it.
_SHORTEST_WITH_ENDING = 8


@dataclass(slots=True)
class Entry:
    """`status` is None while the answer is under way and for ever when the connection was cut."""

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
        """Before the answer leaves, so that who has an answer finds its status here."""
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
class Received:
    """The last 10,000 requests, in order of arrival."""

    keys: Collection[str]
    _entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT))
    _total: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: Request) -> Entry:
        secrets = [*self.keys, request.bearer or ""]
        headers = {name: _redacted(name, value, secrets=secrets) for name, value in request.headers}
        with self._lock:
            self._total += 1
            entry = Entry(
                number=self._total,
                at=datetime.now(UTC),
                method=request.method,
                path=_without(request.path, secrets),
                query=_without(request.query, secrets),
                headers=headers,
            )
            self._entries.append(entry)
        return entry

    def listing(self, *, method: str | None, path: str | None) -> dict[str, object]:
        """`total` counts all since the start, whatever the filters and however many are kept."""
        with self._lock:
            entries, total = list(self._entries), self._total
        return {
            "requests": [
                entry.document() for entry in entries if method in {None, entry.method} and (path or "") in entry.path
            ],
            "total": total,
        }


def _redacted(name: str, value: str, *, secrets: Collection[str]) -> str:
    if name.lower() not in _SECRET_HEADERS:
        return _without(value, secrets)
    scheme, space, secret = value.rpartition(" ")
    ending = secret[-2:] if len(secret) >= _SHORTEST_WITH_ENDING else ""
    # A scheme is one word; whatever else stands before the last space may be part of a secret.
    return f"{scheme if scheme.isalpha() else ''}{space}…{ending}"


def _without(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        # A very short key ("a") would riddle every text; it is no secret either.
        text = text.replace(secret, "…") if len(secret) > 3 else text
    return text
