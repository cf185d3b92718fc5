"""Limits how many passwords one process checks at once.

Checking a password is slow by design: it takes a good part of a second of CPU time. Without a limit, a few dozen
sign-ins at the same moment would occupy every thread of the web server, and nobody could cancel a run. A form beyond
the limit is refused before it is read or counted, so the refusal reveals nothing about the account.
"""

from functools import wraps
from threading import BoundedSemaphore
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponseBase

from taskruns.access.gate import View
from taskruns.access.redirects import is_read
from taskruns.views import errors

from . import known_browsers

log = structlog.get_logger(__name__)


class PasswordLimit:
    """Processes `at_once` forms while `waiting` more wait. Any further form gets 429."""

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self._inside = BoundedSemaphore(at_once + waiting)
        self._turn = BoundedSemaphore(at_once)

    def __call__(self, view: View) -> View:
        @wraps(view)
        def limited(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if is_read(request):
                return view(request, *args, **kwargs)
            if not self._inside.acquire(blocking=False):
                log.warning("passwords_refused_unread", path=request.path)
                return errors.too_busy(request)
            try:
                with self._turn:
                    return view(request, *args, **kwargs)
            finally:
                self._inside.release()

        return limited


# Together fewer than the 8 threads of a web process. Apart, so that strangers cannot take all places.
for_strangers = PasswordLimit(at_once=2, waiting=2)
for_people = PasswordLimit(at_once=1, waiting=1)


def by_browser(view: View) -> View:
    """For the sign-in page: a known browser counts as the person's, so that strangers cannot take its place."""
    strangers, people = for_strangers(view), for_people(view)

    @wraps(view)
    def choose(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        is_known = not is_read(request) and known_browsers.known_browser(request, request.POST.get("login", ""))
        return (people if is_known else strangers)(request, *args, **kwargs)

    return choose
