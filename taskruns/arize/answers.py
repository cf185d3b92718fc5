"""What came back from Arize before it is read, and what may be put into an address."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from taskruns.arize.errors import ArizeError, BadRequest, Unreadable, error_for, read_request_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of any status. The body is decompressed; one that is too long is dropped."""

    status: int
    body: bytes
    headers: Mapping[str, str]  # case-insensitive
    is_too_long: bool = False

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299

    def refusal(self, *, milliseconds: int, secret: str) -> ArizeError:
        return error_for(
            status=self.status,
            body=self.body,
            headers=self.headers,
            milliseconds=milliseconds,
            secret=secret,
        )

    def facts(self, *, milliseconds: int, secret: str) -> dict[str, Any]:
        """What the audit log keeps of a success; an error has the same."""
        request_id = read_request_id(self.headers, secret=secret)
        return {"http_status": self.status, "arize_request_id": request_id, "milliseconds": milliseconds}

    def read(self, read: Callable[[object], T], *, milliseconds: int, secret: str) -> T:
        """What `read` makes of the JSON; raises Unreadable, chained to nothing that holds the body."""
        try:
            if not self.is_too_long:
                return read(json.loads(self.body))
        except (ValueError, RecursionError, Unreadable):
            pass  # raised below, so that no parser's words are chained
        raise Unreadable(
            status=self.status,
            request_id=read_request_id(self.headers, secret=secret),
            milliseconds=milliseconds,
        )


def path_segment(part: str) -> str:
    """An id as one path segment; raises BadRequest if it cannot be one. `.` and `..` cannot: written
    in any way, a library or proxy on the road resolves them.
    """
    quoted = "" if "\0" in part else quote(sendable(part), safe="")
    if quoted in {"", ".", ".."}:
        raise _not_sendable()
    return quoted


def sendable(text: str) -> str:
    """The text itself; raises BadRequest if it is no UTF-8 (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _not_sendable() from None
    return text


def _not_sendable() -> BadRequest:
    return BadRequest("This is not an id or a cursor that Arize can have given, so nothing was sent.")
