"""Error pages: what happened, what it means, what to do next.

Never a stack, never SQL; a reference to find the log line.
"""

import sys

import structlog
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from taskruns.access.denials import record_forged, record_throttled
from taskruns.access.gate import actor_of
from taskruns.pages.values import Message

NOT_WRITTEN = (
    "The panel could not write to its database, so nothing was changed and nothing was sent to Arize. "
    "Please try again; if it stays so, tell whoever runs the panel."
)


NOT_READABLE = (
    "The panel cannot use its database right now, so nothing was changed and nothing was sent to Arize. "
    "Please try again; if it stays so, tell whoever runs the panel."
)


def error_page(request: HttpRequest, status: int, title: str, text: str, *, framed: bool = True) -> HttpResponse:
    """`framed` pages have the header with links, which needs a database."""
    context = {"status": status, "title": title, "text": text, "reference": reference()}
    if framed:
        return render(request, "error.html", context, status=status)
    return HttpResponse(render_to_string("error.html", context | {"frame": None}), status=status)


def message_only(status: int, text: str, tone: str = "error") -> HttpResponse:
    """An answer to htmx that leaves the page alone and speaks through the live region."""
    html = render_to_string("taskruns/_message.html", {"message": Message(tone, text)})
    response = HttpResponse(html, status=status)
    response["HX-Reswap"] = "none"
    return response


def reference() -> str:
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    text = "The panel could not read this request. Go back and try it from the page itself."
    return error_page(request, 400, "That cannot be read", text, framed=False)


def too_large(request: HttpRequest) -> HttpResponse:
    text = "This is more than any form of the panel sends, so it was not read. Send less, without files."
    return error_page(request, 413, "Too much at once", text, framed=False)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    text = "Your role in this team does not allow this. Ask a manager of the team. The try was recorded."
    return error_page(request, 403, "Not with your role", text)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    text = "There is nothing at this address, or it is not yours to see."
    return error_page(request, 404, "Nothing here", text)


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    # Up to the dash it is Django's own sentence; behind it stands what the other side sent.
    record_forged(request, by=actor_of(request), why=f"form token: {reason.split(' - ', maxsplit=1)[0]}")
    text = "The page was too old or came from elsewhere, so nothing was done. Reload the page and try again."
    return error_page(request, 403, "Please reload the page", text)


def too_many(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Allauth's throttle, wherever it strikes."""
    record_throttled(request, by=actor_of(request))
    text = "There were too many tries. Wait a few minutes before the next one. The try was recorded."
    return error_page(request, 429, "Too many tries", text, framed=False)


def server_error(request: HttpRequest) -> HttpResponse:
    if isinstance(sys.exc_info()[1], DatabaseError):
        # Before any view: not even the session could be read.
        return unavailable(request, NOT_READABLE)
    text = "The panel made a mistake. It was logged. Reload the page to see what is true now before trying again."
    return error_page(request, 500, "Something broke", text, framed=False)


def unavailable(request: HttpRequest, text: str = NOT_WRITTEN) -> HttpResponse:
    if getattr(request, "htmx", False):
        return message_only(503, text)
    return error_page(request, 503, "Not possible right now", text, framed=False)
