"""What can go wrong with a call to Arize: one typed error, with a sentence fit for a person.

Nothing here repeats text of an HTTP library, an HTML page or the key.
"""

import email.utils
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar

TITLE_CHARACTERS = 100
PROBLEM_CHARACTERS = 300  # of title and detail together
REQUEST_ID_CHARACTERS = 200
LONGEST_TEXT = 10_000  # characters of a member that are looked at
KEY_PIECE = 8  # characters of a key in a row that nobody may see
LONGEST_RETRY_AFTER = 86_400  # seconds; a longer wait is a mistake of the server's


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
    not_trusted: ClassVar[str] = (
        "The certificate of this region's address cannot be trusted, so nothing was sent. "
        "Check the region; if it is right, somebody stands between this panel and Arize."
    )
    not_found: ClassVar[str] = (
        "The host name of this region cannot be found, so nothing was sent. "
        "Check the region and the name service of this machine."
    )
    private: ClassVar[str] = (
        "The host name of this region leads to a private address, so nothing was sent. "
        "If that is meant, whoever runs the panel lists the address in ARIZE_ENDPOINTS."
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


@dataclass(frozen=True, slots=True)
class Problem:
    """What we keep of an RFC 9457 problem document. Unknown members (error_code, entitlement) are ignored."""

    title: str = ""
    detail: str = ""
    request_id: str | None = None


def error_for(*, status: int, body: bytes, headers: Mapping[str, str], milliseconds: int, secret: str) -> ArizeError:
    """The typed error of an answer that is no success. `secret` is the key, struck out if Arize echoes it."""
    problem = read_problem(body, secret=secret)
    facts: dict[str, Any] = {
        "status": status,
        "title": problem.title,
        "detail": problem.detail,
        "request_id": problem.request_id or read_request_id(headers, secret=secret),
        "milliseconds": milliseconds,
        "retry_after": read_retry_after(headers.get("retry-after")),
    }
    return _kind(status)(**facts)


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


def read_request_id(headers: Mapping[str, str], *, secret: str) -> str | None:
    """From the header, where a problem document names none."""
    return one_line(headers.get("x-request-id"), REQUEST_ID_CHARACTERS, secret) or None


def read_retry_after(value: str | None, *, now: datetime | None = None) -> int | None:
    """Whole seconds from a number or an HTTP date (fractions rounded up, the past is 0); nonsense is None."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value, now or datetime.now(tz=UTC))
    if not math.isfinite(seconds):
        return None
    return min(max(math.ceil(seconds), 0), LONGEST_RETRY_AFTER)


def one_line(value: object, characters: int, secret: str) -> str:
    """Text as one printable line of at most so many characters; anything but text is empty."""
    if not isinstance(value, str):
        return ""
    printable = "".join(" " if _is_control(character) else character for character in value[:LONGEST_TEXT])
    line = _struck_out(secret, " ".join(printable.split()))  # before the cut, which could leave half a key standing
    return line if len(line) <= characters else line[: characters - 1] + "…"


def _struck_out(secret: str, line: str) -> str:
    """The line with `[key]` for every stretch of the key: servers like to echo a shortened one."""
    width = min(KEY_PIECE, len(secret))
    pieces = {secret[start : start + width] for start in range(len(secret) - width + 1)}
    hidden = bytearray(len(line))
    for start in range(len(line) - width + 1 if secret else 0):
        if line[start : start + width] in pieces:
            hidden[start : start + width] = b"\x01" * width
    stretches = groupby(zip(line, hidden, strict=True), key=itemgetter(1))
    return "".join("[key]" if is_key else "".join(map(itemgetter(0), stretch)) for is_key, stretch in stretches)


def _kind(status: int) -> type[ArizeError]:
    if 500 <= status <= 599:
        return ServerError
    return ERRORS.get(status, UnexpectedAnswer)


def _seconds_until(http_date: str, now: datetime) -> float:
    try:
        moment = email.utils.parsedate_to_datetime(http_date)
    except ValueError:
        return math.nan
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()


def _is_control(character: str) -> bool:
    """Control, format (bidirectional tricks too), surrogate, private, unassigned; line and paragraph ends."""
    category = unicodedata.category(character)
    return category.startswith("C") or category in {"Zl", "Zp"}
