"""Error pages: what happened, what it means, what to do next.

They never show a stack trace or SQL, only a reference to find the log line.
"""

import sys

import structlog
from django.contrib.sessions.exceptions import SessionInterrupted
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from taskruns.access.denials import Denied, record_forged, record_throttled
from taskruns.access.gate import TooManyActs, actor_of
from taskruns.access.redirects import UNDONE, is_read
from taskruns.pages.denials import why_denied
from taskruns.pages.values import Message
from taskruns.services.remote_acts import ArizeIsSlow

NOT_WRITTEN = (
    "The panel could not write to its database. Nothing was changed and nothing was sent to Arize. "
    "Try again; if the problem persists, tell your administrator."
)
PERHAPS_WRITTEN = (
    "The panel cannot use its database right now. Your action may or may not have taken effect. "
    "Reload the page and check before you try again."
)
NOT_READABLE = (
    "The panel cannot use its database right now. Nothing was changed and nothing was sent to Arize. "
    "Try again; if the problem persists, tell your administrator."
)


def error_page(request: HttpRequest, status: int, title: str, text: str, *, framed: bool = True) -> HttpResponse:
    """`framed` adds the header with its links, which needs the database."""
    context = {"status": status, "title": title, "text": text, "reference": reference()}
    if framed:
        return render(request, "error.html", context, status=status)
    return HttpResponse(render_to_string("error.html", context | {"frame": None}), status=status)


def message_only(status: int, text: str, tone: str = "error") -> HttpResponse:
    """A response to htmx that does not change the page and only announces a message in the live region."""
    html = render_to_string("taskruns/_message.html", {"message": Message(tone, text)})
    response = HttpResponse(html, status=status)
    response["HX-Reswap"] = "none"
    return response


def reference() -> str:
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if isinstance(exception, SessionInterrupted):  # after the view: Arize may have been asked
        return error_page(request, 400, "Signed out", UNDONE["page"], framed=False)
    text = "The panel could not read this request. Nothing was changed. Go back and try again from the page."
    return error_page(request, 400, "Unreadable request", text, framed=False)


def too_large(request: HttpRequest) -> HttpResponse:
    text = "This request is larger than any form of the panel. It was not read. Send less text, and no files."
    return error_page(request, 413, "Request too large", text, framed=False)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    denied = exception if isinstance(exception, Denied) else Denied()
    access, in_team = getattr(request, "access", None), getattr(request, "team", None) is not None
    text = why_denied(denied.action, access, sentence=denied.sentence, in_team=in_team)
    return error_page(request, 403, "You don't have permission", text)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    text = "This page does not exist, or you don't have access to it. Check the address, or go to the runs."
    return error_page(request, 404, "Page not found", text)


def only_forms(request: HttpRequest) -> HttpResponse:
    text = (
        "This address only receives forms, so there is nothing to show. Nothing was done. Go back, or go to the runs."
    )
    return error_page(request, 405, "Nothing to show here", text)


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    # Before the dash is Django's own sentence, after it whatever the client sent.
    record_forged(request, by=actor_of(request), why=f"form token: {reason.split(' - ', maxsplit=1)[0]}")
    text = "The form was too old or did not come from this panel. Nothing was changed. Reload the page and try again."
    return error_page(request, 403, "Page out of date", text)


def too_many(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """The page for requests that allauth throttles."""
    record_throttled(request, by=actor_of(request))
    text = "There were too many attempts. This one was refused and logged. Wait a few minutes, then try again."
    return error_page(request, 429, "Too many attempts", text, framed=False)


def too_busy(request: HttpRequest) -> HttpResponse:
    """The page for a form with a password while too many others are being checked."""
    text = "Too many people are signing in at this moment. Your password was not checked. Try again in a few seconds."
    response = error_page(request, 429, "Too many sign-ins at once", text, framed=False)
    response["Retry-After"] = "5"
    return response


def too_many_acts(request: HttpRequest, refused: TooManyActs) -> HttpResponse:
    htmx = getattr(request, "htmx", False)
    response = message_only(429, refused.sentence) if htmx else error_page(request, 429, "Too many", refused.sentence)
    response["Retry-After"] = str(refused.retry_after)
    return response


def arize_is_slow(request: HttpRequest, refused: ArizeIsSlow) -> HttpResponse:
    response = unavailable(request, refused.sentence)
    response["Retry-After"] = str(refused.retry_after)
    return response


def server_error(request: HttpRequest) -> HttpResponse:
    if isinstance(sys.exc_info()[1], DatabaseError):
        # By the session: it could not be read before the view, or not be written after it.
        may_have_acted = getattr(request, "view_has_begun", False) and not is_read(request)
        return unavailable(request, PERHAPS_WRITTEN if may_have_acted else NOT_READABLE)
    text = (
        "Something went wrong in the panel, and the error was logged. Your action may or may not have taken effect. "
        "Reload the page and check before you try again."
    )
    return error_page(request, 500, "Internal error", text, framed=False)


def unavailable(request: HttpRequest, text: str = NOT_WRITTEN) -> HttpResponse:
    if getattr(request, "htmx", False):
        return message_only(503, text)
    return error_page(request, 503, "Temporarily unavailable", text, framed=False)
