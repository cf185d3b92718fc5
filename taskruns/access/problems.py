"""Problem documents (RFC 9457) in Arize's style, for errors that the panel itself reports to programs."""

import json
from collections.abc import Mapping

from django.http import HttpResponse

# Source: the responses of the official JS client 1.28.0. Other statuses have no page there.
_STYLE = {
    400: ("invalid-request", "Invalid request parameters"),
    401: ("authentication-required", "Authentication required"),
    403: ("access-forbidden", "Access forbidden"),
    404: ("resource-not-found", "Resource not found"),
    409: ("resource-conflict", "Resource conflict"),
    422: ("unprocessable-entity", "Unprocessable Entity"),
    429: ("rate-limit-exceeded", "Rate limit exceeded"),
    503: ("service-unavailable", "Service Unavailable"),
}
_TITLES = {
    405: "Method Not Allowed",
    413: "Content Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}
_PAGE = "https://arize.com/docs/ax/rest-reference/errors"
PROBLEM = "application/problem+json"


class ForProgram(HttpResponse):
    """An answer of the gateway, whatever its status. Never stored."""

    def __init__(
        self, body: bytes, *, status: int, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        fixed = {"Cache-Control": "no-store"}
        super().__init__(body, status=status, content_type=content_type, headers=fixed | dict(headers or {}))


def problem(
    status: int,
    detail: str,
    *,
    title: str = "",
    retry_after: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> ForProgram:
    """`retry_after`: seconds."""
    fragment, usual = _STYLE.get(status, ("", _TITLES.get(status, "Error")))
    document = {
        "type": f"{_PAGE}#{fragment}" if fragment else "about:blank",
        "title": title or usual,
        "status": status,
        "detail": detail,
    }
    wait = {} if retry_after is None else {"Retry-After": str(retry_after)}
    # A request that is repeated in it may hold lone surrogates, which JSON can escape but UTF-8 cannot encode.
    body = json.dumps(document, ensure_ascii=False).encode(errors="replace")
    return ForProgram(body, status=status, content_type=PROBLEM, headers=wait | dict(headers or {}))
