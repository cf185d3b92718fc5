"""The cookie of a known browser: it lists the people who have signed in here before.

It does not sign in. Attempts in a known browser are counted apart, so that guesses from elsewhere do not lock the
person out of it. A new password ends it: someone who knew the old one must not keep a known browser.
"""

import secrets
from datetime import timedelta

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare

from taskruns.models import User

KEPT_FOR = timedelta(days=180)
LONGEST_LOGIN = 320  # as allauth's field
MOST_PEOPLE = 5  # per browser
_SALT = "taskruns.browser"
# Person's id -> [name of this browser for the person, start of the hash that changes with their password]
_Marks = dict[str, list[str]]


def known_browser(request: HttpRequest, login: str) -> str:
    """The name of this browser if the account has signed in here before, else empty.

    Looks up the account only if the panel signed the cookie: the duration must not reveal accounts to anyone else.
    """
    is_possible = len(login) <= LONGEST_LOGIN and "\0" not in login  # a query with NUL would fail
    marks = _marks(request) if is_possible else {}
    person = User.objects.filter(email__iexact=login.strip()).first() if marks else None
    if person is None or str(person.pk) not in marks:
        return ""
    name, mark = marks[str(person.pk)]
    return name if constant_time_compare(mark, _password_mark(person)) else ""


def remember(request: HttpRequest, response: HttpResponse, person: User) -> None:
    """Mark this browser as known to the person, after a complete sign-in."""
    marks = _marks(request)
    name = marks.pop(str(person.pk), [secrets.token_urlsafe(12)])[0]
    marks[str(person.pk)] = [name, _password_mark(person)]
    response.set_cookie(
        settings.DEVICE_COOKIE_NAME,
        signing.dumps(dict(list(marks.items())[-MOST_PEOPLE:]), salt=_SALT),
        max_age=KEPT_FOR,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _marks(request: HttpRequest) -> _Marks:
    try:
        marks: _Marks = signing.loads(
            request.COOKIES.get(settings.DEVICE_COOKIE_NAME, ""), salt=_SALT, max_age=KEPT_FOR
        )
    except signing.BadSignature:
        return {}
    return marks


def _password_mark(person: User) -> str:
    return person.get_session_auth_hash()[:16]
