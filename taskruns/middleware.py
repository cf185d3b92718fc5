"""Middleware that every request passes through, in addition to Django's own, and the storage of its messages."""

import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.messages.storage.session import SessionStorage
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, UnreadablePostError
from django.utils import timezone
from django.utils.cache import patch_cache_control
from django.utils.crypto import constant_time_compare
from django_structlog.middlewares import RequestMiddleware

from taskruns import __version__
from taskruns.access import recent_auth
from taskruns.access.gate import SAFE_METHODS, TooManyActs, actor_of
from taskruns.access.problems import ForProgram, problem
from taskruns.access.redirects import is_read
from taskruns.access.token_gate import has_token, without_token
from taskruns.audit import EventType, forget_written, may_be_written
from taskruns.gateway.operations import PREFIX
from taskruns.models import User
from taskruns.models.sessions import digest_of
from taskruns.pages import metrics
from taskruns.services import readiness
from taskruns.services.people import sessions
from taskruns.services.remote_acts import ArizeIsSlow, OutcomeNotWritten
from taskruns.views import errors

Handler = Callable[[HttpRequest], HttpResponseBase]
log = structlog.get_logger(__name__)

# The random key of a session, or an anonymous visitor's encrypted data (models/session_store.py).
_SESSION_COOKIE = re.compile(r"[A-Za-z0-9]{1,64}|a\.[A-Za-z0-9_-]{1,4096}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEGAN: ContextVar[float] = ContextVar("began", default=0.0)
_IS_QUIET: ContextVar[bool] = ContextVar("is_quiet", default=False)
_OF_BROWSERS = ("HTTP_COOKIE", "HTTP_HX_REQUEST", "HTTP_X_DRAWN_FOR")
_PROBLEMS = {
    400: "The panel could not read this request. Nothing was sent.",
    413: "The body is larger than any request that the panel takes. Nothing was sent.",
    500: "Something went wrong in the panel, and the error was logged. Read the run before you try again.",
    503: "The panel cannot use its database right now. Nothing was sent to Arize. Try again.",
}
LOCAL = "127.0.0.1"  # the address of a client on a Unix socket, which has none
OUTCOME_NOT_WRITTEN = {
    EventType.RUN_CANCEL: (
        "The cancel was sent to Arize, but its answer could not be recorded. The panel will check the run again. "
        "Reload the run's page in a minute before you cancel again."
    ),
    EventType.RUN_TRIGGER: (
        "The start was sent to Arize, but its answer could not be recorded. A run may have started; the board shows it "
        "after the next refresh. Check the task's runs before you start another one."
    ),
    EventType.CREDENTIAL_TEST: (
        "The API key was tested at Arize, but the result could not be recorded. Nothing was changed. "
        "Test the API key again."
    ),
}


class Body:
    """Rejects a body larger than any form of the panel before reading it, and reads the others whole.

    Django's own limit excludes files, so anyone could make it write files to disk. Without a Content-Length, Django
    reads no body at all.

    A body is read before the session is loaded: whoever sends its last byte late must not act with an account or a
    session that has ended since. Part of a form could mean something else than the whole, so it is refused.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdigit()):
            return errors.bad_request(request)
        if len(length) > 12 or int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            log.warning("request_too_large", path=request.path, length=length[:30])
            return errors.too_large(request)
        if not _reads_its_own(request) and not _has_arrived(request, int(length)):
            return errors.bad_request(request)
        return self.get_response(request)


def _reads_its_own(request: HttpRequest) -> bool:
    """The gateway loads no session, and answers about a body in its own words."""
    return request.method in SAFE_METHODS or request.path_info.startswith(PREFIX)


def _has_arrived(request: HttpRequest, length: int) -> bool:
    try:
        return len(request.body) == length
    except UnreadablePostError:  # the client went away, or was too slow
        return False


class Gateway:
    """Everything under `/v2/` is for programs: no cookie counts or is set, and each answer that is not the gateway's
    own, such as an error page, becomes a problem document.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info != "/v2" and not request.path_info.startswith(PREFIX):
            return self.get_response(request)
        for name in _OF_BROWSERS:
            request.META.pop(name, None)
        if "tr_" in (agent := request.META.get("HTTP_USER_AGENT", "")):
            request.META["HTTP_USER_AGENT"] = without_token(agent)  # it is stored
        if settings.SECURE_SSL_REDIRECT and not request.is_secure():
            return problem(403, "This panel answers over https only. Replace the token: it was sent in clear.")
        response = self.get_response(request)
        if not isinstance(response, ForProgram):
            response = self._as_problem(response)
        response.cookies.clear()
        del response.headers["Vary"]
        return response

    def _as_problem(self, response: HttpResponseBase) -> ForProgram:
        status = response.status_code if response.status_code >= 400 else 500
        wait = {"Retry-After": it} if (it := response.headers.get("Retry-After")) else {}
        return problem(status, _PROBLEMS.get(status, "The panel refused this request."), headers=wait)


class Health:
    """`/healthz`: this process answers, and which version it is. `/readyz`: it can do its work, too.

    Both answer for any host. `/readyz?strict=1` is for alerts: worker and queue were seen in the last 30 s instead of
    3 minutes, and this clock agrees with the database's. Load balancers must not use it: a worker that restarts would
    take the web process, and with it Cancel, out of service.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info == "/healthz":
            return HttpResponse("ok\n", content_type="text/plain", headers={"Taskruns-Version": __version__})
        if request.path_info == "/readyz":
            ready = readiness.is_ready(strict=request.GET.get("strict") == "1")
            return HttpResponse("ok\n" if ready else "not ready\n", "text/plain", 200 if ready else 503)
        return self.get_response(request)


class Metrics:
    """`/metrics` for Prometheus, with METRICS_TOKEN. Like the health checks it answers for any host and sets no cookie.

    Without METRICS_TOKEN there is no such page.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info != "/metrics" or not settings.METRICS_TOKEN:
            return self.get_response(request)
        if request.method not in {"GET", "HEAD"}:
            return HttpResponse(status=405, headers={"Allow": "GET, HEAD"})
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not constant_time_compare(token.strip(), settings.METRICS_TOKEN):
            return HttpResponse("unauthorized\n", "text/plain", 401, headers={"WWW-Authenticate": "Bearer"})
        try:
            return HttpResponse(metrics.text(), content_type=metrics.CONTENT_TYPE)
        except DatabaseError:
            log.warning("metrics_not_read", exc_info=True)
            return HttpResponse("the database cannot be used\n", "text/plain", 503)


class ClientAddress:
    """Sets `request.client_ip`: the address of the connection, or with TRUSTED_PROXIES=n the n-th before it.

    Without a proxy, X-Forwarded-For and X-Request-ID from the client are ignored. The request id is bound to the log
    here, so that any later failure can be found by the reference on its error page.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.client_ip = client_ip(request)  # type: ignore[attr-defined]
        request.META["HTTP_X_REQUEST_ID"] = request_id(request)  # where django-structlog looks for it
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request.META["HTTP_X_REQUEST_ID"])
        return self.get_response(request)


def request_id(request: HttpRequest) -> str:
    """The proxy's request id if it is well formed, otherwise a new one."""
    given = request.META.get("HTTP_X_REQUEST_ID", "") if settings.TRUSTED_PROXIES else ""
    return given if _REQUEST_ID.fullmatch(given) and not has_token(given) else str(uuid.uuid4())


def client_ip(request: HttpRequest) -> str:
    """Never empty. If a proxy forwards something that is no address, the address of the proxy itself counts."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if settings.TRUSTED_PROXIES else []
    chain = [part.strip() for part in forwarded if part.strip()] + [request.META.get("REMOTE_ADDR", "")]
    nearest = chain[-(settings.TRUSTED_PROXIES + 1) :]
    return next(filter(None, map(_address, nearest)), LOCAL)


def _address(text: str) -> str:
    """An address in one spelling, without a port, which some proxies add. Empty if it is none."""
    name = text.partition("]")[0].removeprefix("[")
    if name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        ip = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(ip, "ipv4_mapped", None) or ip)


class RequestLog(RequestMiddleware):
    """One log line a request, with its duration and the address of the client.

    Open pages poll every few seconds: polls, here every htmx GET, that succeed are logged at DEBUG only.
    """

    def prepare(self, request: HttpRequest) -> None:
        _BEGAN.set(time.perf_counter())
        super().prepare(request)

    def handle_response(self, request: HttpRequest, response: HttpResponse) -> None:
        is_poll = request.method == "GET" and request.headers.get("HX-Request") == "true"
        _IS_QUIET.set(is_poll and response.status_code in {200, 304})
        self._bind(request)
        super().handle_response(request, response)

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        """A token may have been sent where it does not belong."""
        line: str = RequestMiddleware.format_request(request)
        return without_token(line) if "tr_" in line else line

    def process_got_request_exception(self, sender: Any, request: HttpRequest, **kwargs: Any) -> None:
        self._bind(request)
        super().process_got_request_exception(sender, request, **kwargs)

    def _bind(self, request: HttpRequest) -> None:
        structlog.contextvars.bind_contextvars(
            address=getattr(request, "client_ip", ""),
            user_agent=request.headers.get("User-Agent"),
            duration_ms=round((time.perf_counter() - _BEGAN.get()) * 1000),
        )

    def _log_level_for_status_code(self, status_code: int) -> int:
        return logging.DEBUG if _IS_QUIET.get() else super()._log_level_for_status_code(status_code)


class StrictTransport:
    """Adds HSTS to every response if SITE_URL is https.

    Django adds it only to requests it knows to be secure. Behind a proxy that TRUSTED_PROXIES does not count, it never
    knows.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if settings.SECURE_HSTS_SECONDS:
            response.headers["Strict-Transport-Security"] = f"max-age={settings.SECURE_HSTS_SECONDS}"
        return response


class SessionCookie:
    """Drops a session cookie that the panel cannot have set. PostgreSQL, for example, fails on a query with NUL."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not _SESSION_COOKIE.fullmatch(request.COOKIES.get(settings.SESSION_COOKIE_NAME, "none")):
            del request.COOKIES[settings.SESSION_COOKIE_NAME]
        return self.get_response(request)


class HostCookie(CookieStorage):
    """Messages for the next page. Over https, the cookie name stops other hosts from setting it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cookie_name = settings.COOKIES.messages


class Messages(FallbackStorage):
    """Django's own storage: messages that do not fit into the cookie are kept in the session."""

    storage_classes = (HostCookie, SessionStorage)


class SessionLimits:
    """Ends sessions that were idle for too long or have reached their maximum age."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.COOKIES.get(settings.SESSION_COOKIE_NAME):
            if why := recent_auth.limit_reached(request.session):
                self._end(request, why)
            elif SESSION_KEY in request.session:
                recent_auth.note_activity(request)
        return self.get_response(request)

    def _end(self, request: HttpRequest, why: str) -> None:
        """Treat the request as anonymous, even if the end of the session cannot be recorded."""
        try:
            if isinstance(request.user, User):
                digest = digest_of(request.session.session_key or "")
                sessions.end_expired(request.user, digest=digest, why=why, by=actor_of(request))
            request.session.flush()
        except DatabaseError:
            log.exception("session_end_not_recorded")
        request.user = AnonymousUser()


class SamePerson:
    """Reloads an open page after someone else has signed in with its browser.

    Otherwise its next poll would put the second person's rows under the first one's name. Requests that change
    something need no such check: signing in replaces the form token.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        drawn_for = request.headers.get("X-Drawn-For")
        if drawn_for is None or not is_read(request) or not isinstance(request.user, User):
            return self.get_response(request)
        if drawn_for == str(request.user.pk):
            return self.get_response(request)
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})


class NeverStored:
    """Forbids caching of every response without Cache-Control: pages outside the gate may name a person too.

    After signing out, not even the back button may show them again.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not response.has_header("Cache-Control"):
            patch_cache_control(response, no_store=True, private=True)
        return response


class PersonTimeZone:
    """Shows times on pages in the person's time zone."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not isinstance(request.user, User) or not request.COOKIES.get(settings.SESSION_COOKIE_NAME):
            return self.get_response(request)
        with timezone.override(_zone(request.user.time_zone)):
            return self.get_response(request)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


class OnlyForms:
    """Shows a page instead of the empty answer to a GET of an address that only receives forms.

    A reload of a refused form, or signing in again, may lead to one.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if response.status_code == 405 and request.method == "GET" and isinstance(request.user, User):
            page = errors.only_forms(request)
            page.headers["Allow"] = response.headers.get("Allow", "POST")
            return page
        return response


class FailClosed:
    """Nothing is done that cannot be recorded: any database error becomes a 503 that says whether something was.

    Too many acts of one person become a 429, and too many requests that wait for Arize a 503.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method == "POST":  # nothing else acts
            forget_written()
        request.view_has_begun = True  # type: ignore[attr-defined]
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, OutcomeNotWritten):
            log.error("outcome_not_written", act=exception.event.value, exc_info=exception)
            return errors.unavailable(request, OUTCOME_NOT_WRITTEN[exception.event])
        if isinstance(exception, TooManyActs):
            log.warning("too_many_acts", path=request.path)
            return errors.too_many_acts(request, exception)
        if isinstance(exception, ArizeIsSlow):
            return errors.arize_is_slow(request, exception)
        if isinstance(exception, DatabaseError):
            log.error("database_refused", exc_info=exception)
            may_have_acted = request.method == "POST" and may_be_written(exception)
            return errors.unavailable(request, errors.PERHAPS_WRITTEN if may_have_acted else errors.NOT_WRITTEN)
        return None
