"""The cookie that tells in which browser which people have signed in before.

It signs nobody in. It only keeps strangers, who guess at an account elsewhere, from locking its person out of here. A
new password makes it worthless: someone who knew the old one becomes a stranger again.
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
MOST_PEOPLE = 5  # who share a browser
_SALT = "taskruns.browser"
# Person's id -> the browser's name for this person, and a mark of their password.
_Marks = dict[str, list[str]]


def known_browser(request: HttpRequest, login: str) -> str:
    """A name for this browser if the account has signed in here, else empty.

    Looks up the account only for a cookie that the panel signed, so strangers cannot time it.
    """
    is_possible = len(login) <= LONGEST_LOGIN and "\0" not in login  # what a database refuses to look for
    marks = _marks(request) if is_possible else {}
    person = User.objects.filter(email__iexact=login.strip()).first() if marks else None
    if person is None or str(person.pk) not in marks:
        return ""
    name, mark = marks[str(person.pk)]
    return name if constant_time_compare(mark, _mark(person)) else ""


def remember(request: HttpRequest, response: HttpResponse, person: User) -> None:
    """After a complete sign-in."""
    marks = _marks(request)
    name = marks.pop(str(person.pk), [secrets.token_urlsafe(12)])[0]
    marks[str(person.pk)] = [name, _mark(person)]
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


def _mark(person: User) -> str:
    return person.get_session_auth_hash()[:16]
