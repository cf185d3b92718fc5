"""What can go wrong with a call to Arize: one typed error, with a sentence fit for a person.

Nothing here repeats text of an HTTP library, an HTML page or the key.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taskruns.arize.values import REQUEST_ID_CHARACTERS, one_line, read_request_id, read_retry_after
from taskruns.outbound import Answer, Failure, NotAnswered

TITLE_CHARACTERS = 100
PROBLEM_CHARACTERS = 300  # of title and detail together


class ArizeError(Exception):
    """Base of all. `str(error)` is the sentence; `title` and `detail` are the problem document's own words,
    cleaned to one line and at most 300 characters together; `milliseconds` is how long the call took;
    `retry_after` is how many whole seconds Arize asks to wait, 0 to a day, or None if it did not say.
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
    def words(self) -> str:
        """Arize's own, or empty."""
        return ": ".join(part for part in (self.title, self.detail) if part)

    @property
    def facts(self) -> dict[str, Any]:
        """What the audit log keeps of the answer."""
        return {"http_status": self.status, "arize_request_id": self.request_id, "milliseconds": self.milliseconds}


class NotSent(ArizeError):
    """No connection was made (name, refusal, TLS, connect time-out): Arize has received nothing."""

    default = (
        "No connection to Arize could be made, so nothing was sent. Check the region and the network, then try again."
    )


class NoAnswer(ArizeError):
    """The request may have arrived: whether Arize acted on it is unknown."""

    default = "Arize did not answer in time, or cut the connection, after the request was sent. Try again in a moment."


class BadRequest(ArizeError):
    default = "Arize refused the request as invalid (400). Its own words say what it did not accept."


class Unauthorized(ArizeError):
    default = (
        "Arize does not accept this API key (401): it is wrong, expired, revoked, or of another region. "
        "Test the key, check its region, or replace it."
    )


class Forbidden(ArizeError):
    default = (
        "This API key can see this but may not do it (403). Ask for a key with more rights in Arize, "
        "for example the space role Member."
    )


class NotFound(ArizeError):
    """Absent, or no read access: Arize answers both alike on purpose."""

    default = "Arize does not know this, or this API key may not see it (404)."


class Conflict(ArizeError):
    default = (
        "Arize refused because of the present state of things (409). Look at the newest state before trying again."
    )


class Unprocessable(ArizeError):
    default = "Arize understood the request but cannot carry it out (422). Its own words say why."


class RateLimited(ArizeError):
    default = "Arize allows no more calls with this API key for now (429). Wait a little, then try again."

    def __init__(self, sentence: str | None = None, *, retry_after: int | None = None, **facts: Any) -> None:
        if sentence is None and retry_after is not None:
            unit = "second" if retry_after == 1 else "seconds"
            sentence = f"Arize allows no more calls with this API key for now (429). Try again in {retry_after} {unit}."
        super().__init__(sentence, retry_after=retry_after, **facts)


class ServerError(ArizeError):
    default = "Arize has a fault of its own ({status}). Try again in a moment."


class Unreadable(ArizeError):
    """A success whose body is not the JSON that is needed, or is longer than anybody would send."""

    default = (
        "Arize answered, but not with the data that was expected. "
        "Check that the region is an API address of Arize, not a web page or a proxy."
    )


class UnexpectedAnswer(ArizeError):
    """A redirect (never followed: the key would travel along) or a status that no Arize page names."""

    default = (
        "Arize gave an answer that it should not give ({status}), so it was not followed. "
        "Check that the region is an API address of Arize."
    )


ERRORS: Mapping[int, type[ArizeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: NoAnswer,  # a gateway gave up waiting: the request may have been done
    409: Conflict,
    422: Unprocessable,
    429: RateLimited,
}


NOT_SENT: Mapping[Failure, str] = {
    Failure.NO_CONNECTION: NotSent.default,
    Failure.CONNECT_TIMEOUT: (
        "Arize accepted no connection within {seconds:g} seconds, so nothing was sent. "
        "Check the region and the network, then try again."
    ),
    Failure.UNKNOWN_HOST: (
        "The host name of this region cannot be found, so nothing was sent. "
        "Check the region and the name service of this machine."
    ),
    Failure.PRIVATE_ADDRESS: (
        "The host name of this region leads to a private address, so nothing was sent. "
        "If that is meant, whoever runs the panel lists the address in ARIZE_ENDPOINTS."
    ),
    Failure.UNTRUSTED_CERTIFICATE: (
        "The certificate of this region's address cannot be trusted, so nothing was sent. "
        "Check the region; if it is right, somebody stands between this panel and Arize."
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What we keep of an RFC 9457 problem document. Unknown members (error_code, entitlement) are ignored."""

    title: str = ""
    detail: str = ""
    request_id: str | None = None


def error_for(answer: Answer, *, secret: str) -> ArizeError:
    """The typed error of an answer that is no success. `secret` is the key, struck out if Arize echoes it."""
    problem = read_problem(answer.body, secret=secret)
    facts: dict[str, Any] = {
        "status": answer.status,
        "title": problem.title,
        "detail": problem.detail,
        "request_id": problem.request_id or read_request_id(answer.headers, secret=secret),
        "milliseconds": answer.milliseconds,
        "retry_after": read_retry_after(answer.headers.get("retry-after")),
    }
    return _kind(answer.status)(**facts)


def error_without_answer(call: NotAnswered, *, connect: float) -> ArizeError:
    """The typed error of a call that got no answer. `connect` is the time-out of its connection, in seconds."""
    if call.why is Failure.NO_ANSWER:
        return NoAnswer(milliseconds=call.milliseconds)
    return NotSent(NOT_SENT[call.why].format(seconds=connect), milliseconds=call.milliseconds)


def read_problem(body: bytes, *, secret: str = "") -> Problem:
    """HTML pages, empty bodies and JSON of another shape all give the empty Problem."""
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
