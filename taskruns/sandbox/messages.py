"""Requests, answers and problem documents, independent of sockets."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

MOST_PARAMETERS = 100
ERRORS_PAGE = "https://arize.com/docs/ax/rest-reference/errors"

_DOCUMENTED = {
    400: ("#invalid-request", "Invalid request parameters"),
    401: ("#authentication-required", "Authentication required"),
    403: ("#access-forbidden", "Access forbidden"),
    404: ("#resource-not-found", "Resource not found"),
    409: ("#resource-conflict", "Resource conflict"),
    422: ("#unprocessable-entity", "Unprocessable Entity"),
    429: ("#rate-limit-exceeded", "Rate limit exceeded"),
    503: ("#service-unavailable", "Service Unavailable"),
}


@dataclass(eq=False)  # not frozen: Python sets the traceback of exceptions
class Problem(Exception):
    """An error answer, sent as an RFC 9457 document like Arize's."""

    status: int
    detail: str
    title: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, *, instance: str, request_id: str) -> dict[str, object]:
        fragment, title = _DOCUMENTED.get(self.status, ("", reason_phrase(self.status)))
        return {
            "type": ERRORS_PAGE + fragment,
            "title": self.title or title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
        }


def reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"


@dataclass(frozen=True, slots=True)
class Request:
    """`path` and `query` are raw, as received."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""

    @property
    def segments(self) -> list[str]:
        """The parts of the path, percent-decoded one by one: `%2F` inside an id is not a separator."""
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def bearer(self) -> str | None:
        """The key from `Authorization: Bearer <key>`; Arize accepts no other form under /v2."""
        scheme, _, key = (self.header("authorization") or "").partition(" ")
        return key.strip() or None if scheme == "Bearer" else None

    def parameters(self) -> "Parameters":
        """Raises Problem 400."""
        try:
            values = parse_qs(self.query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
        except ValueError:
            raise Problem(400, f"A query can have at most {MOST_PARAMETERS} fields.") from None
        return Parameters(values)

    def json(self) -> object:
        """Raises Problem 400."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Problem(400, "The body is not JSON.") from None


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parsed query string."""

    values: Mapping[str, list[str]]

    def one(self, name: str) -> str | None:
        """The only value of a parameter, or None. Raises Problem 400 if there are several."""
        values = self.values.get(name, [])
        if len(values) > 1:
            raise Problem(400, f"{name} can have only one value.")
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Fields:
    """The members of a JSON object. Each reader raises Problem 400 for a value of the wrong type."""

    document: dict[str, object]

    @classmethod
    def read(cls, document: object, *, known: Collection[str]) -> "Fields":
        """Raises Problem 400 unless `document` is an object with known members only."""
        if not isinstance(document, dict):
            raise Problem(400, "The body must be a JSON object.")
        unknown = sorted(document.keys() - set(known))
        if unknown:
            raise Problem(400, f"Unknown member {unknown[0]!r}. Known members are {', '.join(known)}.")
        return cls(document)

    def text(self, name: str) -> str | None:
        value = self.document.get(name)
        if value is None or isinstance(value, str):
            return value
        raise Problem(400, f"{name} must be a string.")

    def whole(self, name: str, *, least: int, most: int) -> int | None:
        value = self.document.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value <= most):
            return value
        raise Problem(400, f"{name} must be a whole number from {least} to {most}.")

    def number(self, name: str, *, least: float, most: float) -> float | None:
        """Also rejects NaN, which Python's JSON accepts."""
        value = self.document.get(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise Problem(400, f"{name} must be a number from {least} to {most}.")

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        value = self.text(name)
        if value is None or value in choices:
            return value
        raise Problem(400, f"{name} must be one of {', '.join(choices)}.")

    def texts(self, name: str) -> dict[str, str]:
        """An object of strings. Numbers become strings, because `Retry-After` is usually written as a number."""
        value = self.document.get(name, {})
        if not isinstance(value, dict) or not all(isinstance(one, str | int) for one in value.values()):
            raise Problem(400, f"{name} must be an object of strings.")
        return {key: str(one) for key, one in value.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(document: object, *, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def problem_answer(problem: Problem, *, instance: str, request_id: str) -> Answer:
    document = problem.document(instance=instance, request_id=request_id)
    headers = {"Content-Type": "application/problem+json", **problem.headers}
    return Answer(problem.status, json.dumps(document).encode(), headers)


def iso(moment: datetime, *, fractions: bool = True) -> str:
    """Arize's time format: UTC, milliseconds, `Z`."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if fractions else "seconds")
    return text.replace("+00:00", "Z")
