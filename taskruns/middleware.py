"""Middleware that every request passes through, in addition to Django's own, and the storage of its messages."""

import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.messages.storage.session import SessionStorage
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from django.utils.cache import patch_cache_control

from taskruns.access import recent_auth
from taskruns.access.gate import TooManyActs, actor_of
from taskruns.access.redirects import is_read
from taskruns.audit import EventType, anchors, signing_keys
from taskruns.models import Heartbeat, User
from taskruns.models.sessions import digest_of
from taskruns.services import key_ring
from taskruns.services.people import sessions
from taskruns.services.remote_acts import OutcomeNotWritten
from taskruns.views import errors

Handler = Callable[[HttpRequest], HttpResponseBase]
log = structlog.get_logger(__name__)

# The random key of a session, or an anonymous visitor's encrypted data (models/session_store.py).
_SESSION_COOKIE = re.compile(r"[A-Za-z0-9]{1,64}|a\.[A-Za-z0-9_-]{1,4096}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
WORKER_SEEN_WITHIN = timedelta(minutes=3)
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


class BodyLimit:
    """Rejects a body larger than any form of the panel before reading it.

    Django's own limit excludes files, so anyone could make it write files to disk. Without a Content-Length, Django
    reads no body at all.
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
        return self.get_response(request)


class Health:
    """`/healthz`: this process answers. `/readyz`: database, migrations, worker and anchor file are ready. Any host."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info == "/healthz":
            return HttpResponse("ok\n", content_type="text/plain")
        if request.path_info == "/readyz":
            ready = is_ready()
            return HttpResponse("ok\n" if ready else "not ready\n", "text/plain", 200 if ready else 503)
        return self.get_response(request)


def is_ready() -> bool:
    try:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return False
        if anchors.unwritten_since() is not None:
            log.warning("not_ready", why="anchors are not written to AUDIT_ANCHOR_FILE")
            return False
        if problem := key_ring.problem() or signing_keys.signing_key_problem():
            log.error("not_ready", problem=problem)
            return False
        return Heartbeat.objects.filter(seen_at__gte=timezone.now() - WORKER_SEEN_WITHIN).exists()
    except DatabaseError:
        log.warning("not_ready", exc_info=True)
        return False


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
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def client_ip(request: HttpRequest) -> str:
    """Empty if the address is not a valid one."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if settings.TRUSTED_PROXIES else []
    chain = [part.strip() for part in forwarded if part.strip()] + [request.META.get("REMOTE_ADDR", "")]
    nth = min(settings.TRUSTED_PROXIES + 1, len(chain))
    try:
        return str(ipaddress.ip_address(chain[-nth]))
    except ValueError:
        return ""


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
        self.cookie_name = "__Host-messages" if settings.SITE.secure else "messages"


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


class FailClosed:
    """Nothing is done that cannot be recorded: any database error becomes a 503 with an explanation.

    Too many acts of one person become a 429.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, OutcomeNotWritten):
            log.error("outcome_not_written", act=exception.event.value, exc_info=exception)
            return errors.unavailable(request, OUTCOME_NOT_WRITTEN[exception.event])
        if isinstance(exception, TooManyActs):
            log.warning("too_many_acts", path=request.path)
            return errors.too_many_acts(request, exception)
        if isinstance(exception, DatabaseError):
            log.error("database_refused", exc_info=exception)
            return errors.unavailable(request)
        return None
