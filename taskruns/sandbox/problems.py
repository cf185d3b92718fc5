"""RFC 9457 problem documents as Arize answers them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

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


@dataclass(eq=False)  # not frozen: Python itself writes tracebacks into exceptions
class Problem(Exception):
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
