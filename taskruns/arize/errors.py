"""What can go wrong with a call to Arize: one typed error each, with a message for the user.

A message says what happened, what it means and what to do next. It never repeats text from an HTTP library, an HTML
page or the key.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taskruns.arize.values import REQUEST_ID_CHARACTERS, one_line, read_request_id
from taskruns.outbound import Answer, Failure, NotAnswered

TITLE_CHARACTERS = 100
PROBLEM_CHARACTERS = 300  # of title and detail together


class ArizeError(Exception):
    """Base class. `str(error)` is the message for the user.

    `title` and `detail` come from Arize's problem document, cleaned to one line and 300 characters in total.
    `milliseconds` is the duration of the call. `retry_after` is the wait that Arize asks for, in whole seconds from 0
    to a day, or None if it named none.
    """

    default: ClassVar[str] = "The call to Arize failed."

    def __init__(
        self,
        sentence: str | None = None,
        *,
        status: int | None = None,
        title: str = "",
        detail: str = "",
        request_id: str | None = None,
        milliseconds: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.sentence = self.default.format(status=status) if sentence is None else sentence
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.milliseconds = milliseconds
        self.retry_after = retry_after
        super().__init__(self.sentence)

    @property
    def arize_message(self) -> str:
        """Arize's own message, or empty."""
        return ": ".join(part for part in (self.title, self.detail) if part)

    @property
    def facts(self) -> dict[str, Any]:
        """What the audit log stores about the answer."""
        return {"http_status": self.status, "arize_request_id": self.request_id, "milliseconds": self.milliseconds}


class NotSent(ArizeError):
    """No connection was made (DNS, refused, TLS, connect timeout, proxy): Arize has received nothing."""

    default = (
        "The panel could not connect to Arize. Nothing was sent. Check the region and the network, then try again."
    )


class NoAnswer(ArizeError):
    """The request may have arrived; whether Arize acted on it is unknown."""

    default = (
        "The request was sent, but Arize did not answer in time or closed the connection. "
        "Arize may still have acted on it. Try again in a moment."
    )


class BadRequest(ArizeError):
    default = "Arize rejected the request as invalid (400). Nothing was changed. See Arize's message for the reason."


class HalfAsked(BadRequest):
    """Arize rejected one spelling of a filter, and the rate limit left no call to try the other one."""


class Unauthorized(ArizeError):
    default = (
        "Arize rejected this API key (401). It is wrong, expired, revoked or from another region. "
        "Test the key, check its region, or replace it."
    )


class Forbidden(ArizeError):
    default = (
        "Arize refused this request (403). The API key can see this but may not do it. "
        "Get a key with more rights in Arize, for example the space role Member."
    )


class NotFound(ArizeError):
    """Absent, or no read access: Arize gives the same answer for both on purpose."""

    default = (
        "Arize did not find this (404). It does not exist, or this API key has no access to it. "
        "Check the key's access in Arize."
    )


class Conflict(ArizeError):
    default = (
        "Arize refused the request because it conflicts with the current state (409). Nothing was changed. "
        "Check the latest state before you try again."
    )


class Unprocessable(ArizeError):
    default = "Arize cannot carry out this request (422). Nothing was changed. See Arize's message for the reason."


_RATE_LIMITED = "The rate limit of this API key is reached (429). Arize accepts no more calls for now."


class RateLimited(ArizeError):
    default = f"{_RATE_LIMITED} Wait a little, then try again."

    def __init__(self, sentence: str | None = None, *, retry_after: int | None = None, **facts: Any) -> None:
        if sentence is None and retry_after is not None:
            unit = "second" if retry_after == 1 else "seconds"
            sentence = f"{_RATE_LIMITED} Try again in {retry_after} {unit}."
        super().__init__(sentence, retry_after=retry_after, **facts)


class ServerError(ArizeError):
    default = "Arize is returning errors ({status}). The problem is on Arize's side. Try again in a moment."


class Unreadable(ArizeError):
    """A 2xx whose body is not the expected JSON, or is too long."""

    default = (
        "Arize answered, but without the expected data. The address may be a web page or a proxy, not Arize's API. "
        "Check the region of this API key."
    )


class ListRepeats(ArizeError):
    """The cursors of a list make no progress. The items read are valid, but there may be more."""

    default = "Arize's list repeats itself, so it may be incomplete. The items read so far were kept."


class UnexpectedAnswer(ArizeError):
    """A redirect (never followed: it would carry the key along) or a status that Arize does not document."""

    default = (
        "Arize sent an unexpected answer ({status}). The panel ignored it. "
        "Check that the region is an API address of Arize."
    )


ERRORS: Mapping[int, type[ArizeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: NoAnswer,  # a gateway timed out: Arize may have acted on the request
    409: Conflict,
    422: Unprocessable,
    429: RateLimited,
}

NOT_SENT: Mapping[Failure, str] = {
    Failure.NO_CONNECTION: NotSent.default,
    Failure.CONNECT_TIMEOUT: (
        "Arize did not accept a connection within {seconds:g} seconds. Nothing was sent. "
        "Check the region and the network, then try again."
    ),
    Failure.UNKNOWN_HOST: (
        "The host name of this region was not found. Nothing was sent. Check the region and the DNS of this server."
    ),
    Failure.PRIVATE_ADDRESS: (
        "The host name of this region resolves to a private address. Nothing was sent. "
        "If this is intended, ask your administrator to list the address in ARIZE_ENDPOINTS."
    ),
    Failure.UNTRUSTED_CERTIFICATE: (
        "The TLS certificate of this region is not trusted. Nothing was sent. "
        "Check the region; if it is correct, something is intercepting the connection to Arize."
    ),
    Failure.PROXY_UNREACHABLE: (
        "The panel could not connect to its proxy. Nothing was sent. "
        "Try again in a moment. If that fails, ask your administrator to check EGRESS_PROXY."
    ),
    Failure.PROXY_REFUSED: (
        "The proxy refused the connection to Arize ({status}). Nothing was sent. "
        "Try again in a moment. If that fails, ask your administrator whether the proxy allows this region."
    ),
    Failure.PROXY_PASSWORD: (
        "The proxy refused the panel's user name or password (407). Nothing was sent. "
        "Ask your administrator to check EGRESS_PROXY."
    ),
    Failure.PROXY_FAILED: (
        "The proxy did not open a connection to Arize. Nothing was sent. "
        "Try again in a moment. If that fails, ask your administrator to check the proxy."
    ),
    Failure.NOT_FOR_PROXY: (
        "This region is a private address, and the panel asks its proxy for public addresses only. Nothing was sent. "
        "Ask your administrator to list the address in NO_PROXY."
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """The members we keep of an RFC 9457 problem document. Others (error_code, entitlement) are ignored."""

    title: str = ""
    detail: str = ""
    request_id: str | None = None


def error_for(answer: Answer, *, secret: str) -> ArizeError:
    """The typed error for an answer that is not 2xx. `secret` is the key, redacted if Arize echoes it."""
    problem = read_problem(answer.body, secret=secret)
    facts: dict[str, Any] = {
        "status": answer.status,
        "title": problem.title,
        "detail": problem.detail,
        "request_id": problem.request_id or read_request_id(answer.headers, secret=secret),
        "milliseconds": answer.milliseconds,
        "retry_after": answer.retry_after,
    }
    return _kind(answer.status)(**facts)


def error_without_answer(call: NotAnswered, *, connect: float) -> ArizeError:
    """The typed error for a call without an answer. `connect` is its connect timeout in seconds."""
    if call.why is Failure.NO_ANSWER:
        return NoAnswer(milliseconds=call.milliseconds)
    sentence = NOT_SENT[call.why].format(seconds=connect, status=call.proxy_status)
    return NotSent(sentence, milliseconds=call.milliseconds)


def read_problem(body: bytes, *, secret: str = "") -> Problem:
    """Read a problem document. HTML, an empty body and other JSON give an empty Problem."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Problem()
    if not isinstance(document, dict):
        return Problem()
    title = one_line(document.get("title"), TITLE_CHARACTERS, secret)
    detail = one_line(document.get("detail"), PROBLEM_CHARACTERS - len(title), secret)
    request_id = one_line(document.get("request_id"), REQUEST_ID_CHARACTERS, secret)
    return Problem(title=title, detail=detail, request_id=request_id or None)


def _kind(status: int) -> type[ArizeError]:
    if 500 <= status <= 599:
        return ServerError
    return ERRORS.get(status, UnexpectedAnswer)
