"""Acts that wait while their person confirms who they are.

Kept in the person's own session, for a few minutes: only the fields that a view names (`keeps`), so never a key, a code
or a password. Nothing is done by itself: after the confirmation the person sends the act again with one click.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest

from taskruns.models import User

from .redirects import referring_page

KEPT_FOR = 10 * 60  # seconds
LONGEST = 2_000  # characters of one field
_KEPT = "unfinished"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """`is_whole`: every field that was sent is in `fields`. `page`: where the form is."""

    path: str
    page: str
    fields: tuple[tuple[str, str], ...]
    is_whole: bool


def keep(request: HttpRequest, person: User, *, keeps: Iterable[str]) -> None:
    """Keep this POST for its person, instead of an earlier one."""
    sent = {name: request.POST.getlist(name) for name in request.POST if name != "csrfmiddlewaretoken"}
    fields = [(name, value) for name in keeps for value in sent.get(name, ()) if len(value) <= LONGEST]
    request.session[_KEPT] = {
        "person": str(person.pk),
        "at": int(time.time()),
        "path": request.path,
        "page": referring_page(request) or request.path,
        "fields": fields,
        "is_whole": len(fields) == sum(map(len, sent.values())),
    }


def waiting(request: HttpRequest) -> Unfinished | None:
    kept: dict[str, Any] = request.session.get(_KEPT) or {}
    is_theirs = kept.get("person") == str(request.user.pk)
    if not is_theirs or not 0 <= time.time() - kept["at"] <= KEPT_FOR:
        return None
    fields = tuple((name, value) for name, value in kept["fields"])
    return Unfinished(kept["path"], kept["page"], fields, kept["is_whole"])


def forget(request: HttpRequest) -> None:
    """The act arrived: nothing waits any more."""
    if _KEPT in request.session:
        del request.session[_KEPT]


def typed(request: HttpRequest) -> dict[str, str]:
    """What was typed into the form of this page before the confirmation, once."""
    act = waiting(request) if request.method == "GET" else None
    if act is None or act.path != request.path:
        return {}
    forget(request)
    return dict(act.fields)
