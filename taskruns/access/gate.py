"""The only gate of views. Every view declares who may reach it: `@requires(Action.X)`, `@signed_in` or `@anyone`.
A view that declares nothing stops the start.

Not signed in: the login page. Not an insider of the team: 404, as if nothing were there. Insider without the right:
403. Both refusals leave a row in the audit log, and stay refusals if that row cannot be written.

The right is not always enough. A person who must have a second factor and has shown none reaches only the pages that
set it up, and a view with `recent_auth` wants proof from the last ten minutes that it is still the same person.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

import structlog
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, URLResolver, reverse
from django.utils.cache import patch_cache_control
from django_htmx.middleware import HtmxDetails

from taskruns.audit import Actor, EventType
from taskruns.models import SiteRole, Team, TeamRole, User
from taskruns.permissions import Access, Action, access_of, granted
from taskruns.services import members
from taskruns.services.people import sessions

from .denials import record_denied
from .recent_auth import auth_method, is_recent, lacks_second_factor
from .redirects import page_of, referring_page, to_login, with_next

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
View = Callable[..., HttpResponseBase]
M = TypeVar("M", bound=models.Model)


class PanelRequest(HttpRequest):
    """A request that has passed the gate."""

    user: User
    access: Access
    team: Team | None
    htmx: HtmxDetails
    client_ip: str


def requires(
    action: Action, *, event: EventType | None = None, acts_on: str = "POST", recent_auth: bool = False
) -> Callable[[View], View]:
    """Let the view run only for people with the right to `action`.

    A url with a `slug` is a team's: the view gets the team in its place. `event` is the audit event that the method
    `acts_on` would have made: its denial is recorded under that name. `recent_auth` asks for a recent proof of who it
    is; never for what stops runs.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: HttpRequest, *args: Any, slug: str | None = None, **kwargs: Any) -> HttpResponseBase:
            denied_as = _event(request, event, acts_on)
            if not request.user.is_authenticated:
                return _stranger(request, denied_as)
            panel = _enter(request, slug)
            if panel.team is not None and not panel.access.is_insider:
                raise _hidden(panel)
            if not panel.access.may(action):
                record_denied(panel, denied_as, by=actor_of(panel), team=panel.team)
                raise PermissionDenied
            if (stopped := _not_shown_enough(panel, denied_as, recent_auth=recent_auth)) is not None:
                return stopped
            team = () if panel.team is None else (panel.team,)
            return _private(view(panel, *team, *args, **kwargs))

        return _declared(gate, action)

    return decorate


def signed_in(view: View) -> View:
    """For pages that every person has: their home, their own profile."""
    return _for_everybody(view)


def requires_recent_auth(view: View) -> View:
    """For what a stolen session must not change: how its person signs in. Open to those who lack a second factor."""
    return _for_everybody(view, recent_auth=True, before_second_factor=True)


def first_factor_enough(view: View) -> View:
    """For the way to a second factor, and out: open to those who lack one."""
    return _for_everybody(view, before_second_factor=True)


def _for_everybody(view: View, *, recent_auth: bool = False, before_second_factor: bool = False) -> View:
    @wraps(view)
    def gate(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return _stranger(request, EventType.ACCESS_DENIED)
        panel = _enter(request, None)
        stopped = _not_shown_enough(
            panel, EventType.ACCESS_DENIED, recent_auth=recent_auth, before_second_factor=before_second_factor
        )
        return _private(view(panel, *args, **kwargs)) if stopped is None else stopped

    return _declared(gate, "signed in")


def _stranger(request: HttpRequest, event: EventType) -> HttpResponse:
    """GETs are redirected to the sign-in and not recorded: open pages keep polling after their session ends."""
    if request.method not in SAFE_METHODS:
        record_denied(request, event, by=actor_of(request), why="not signed in")
    return to_login(request)


def _not_shown_enough(
    request: PanelRequest, event: EventType, *, recent_auth: bool, before_second_factor: bool = False
) -> HttpResponse | None:
    """The answer to a person whose session has not shown enough. A GET is redirected to the proof and back; a POST is
    not kept for later, because it may hold a key.
    """
    if not before_second_factor and lacks_second_factor(request, request.user, request.team):
        return _led_to(request, reverse("factors"), event, why="no second factor")
    if recent_auth and not is_recent(request, request.user):
        return _led_to(request, reverse("confirm"), event, why="no fresh sign-in")
    return None


def _led_to(request: PanelRequest, url: str, event: EventType, *, why: str) -> HttpResponse:
    """What was to be changed is refused, and a row, whatever the client says of itself in its headers."""
    is_look = request.method in {"GET", "HEAD"}
    if not is_look:
        record_denied(request, event, by=actor_of(request), team=request.team, why=why)
    if request.htmx:
        response = HttpResponse(status=401)
        response["HX-Redirect"] = with_next(url, page_of(request.htmx))
        return response
    if is_look:
        return HttpResponseRedirect(with_next(url, request.get_full_path()))
    context = {"why": why, "url": with_next(url, referring_page(request))}
    return render(request, "taskruns/people/recent_auth.html", context, status=403)


def anyone(view: View) -> View:
    """For the few pages that need no sign-in."""
    return _declared(view, "anyone")


def by_method(*, read: View, act: View) -> View:
    """Two gates at one url: who may look there, and who may act."""

    def choose(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return (read if request.method in {"GET", "HEAD"} else act)(request, *args, **kwargs)

    return _declared(choose, f"{read.declared_access}, {act.declared_access}")  # type: ignore[attr-defined]


def check_declared(patterns: Iterable[URLPattern | URLResolver]) -> None:
    """Refuse to start with a view that declares no access."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            check_declared(pattern.url_patterns)
        elif not hasattr(pattern.callback, "declared_access"):
            message = f"The view of {pattern.pattern} declares no access."
            raise ImproperlyConfigured(message)


def _declared(view: View, access: Action | str) -> View:
    view.declared_access = access  # type: ignore[attr-defined]
    return view


def owned(request: PanelRequest, rows: "models.QuerySet[M]", pk: uuid.UUID) -> M:
    """The row `pk` of the request's team. A missing and a foreign one are the same 404; the foreign one is recorded."""
    row = rows.filter(team=request.team, pk=pk).first()
    if row is not None:
        return row
    if rows.model._default_manager.filter(pk=pk).exists():
        raise _hidden(request)
    raise Http404


def mine(request: PanelRequest, rows: "models.QuerySet[M]", pk: int) -> M:
    """The row `pk` of the person themselves. Somebody else's is the same 404 as none, and a recorded try."""
    row = rows.filter(user=request.user, pk=pk).first()
    if row is not None:
        return row
    if rows.filter(pk=pk).exists():
        raise _hidden(request)
    raise Http404


def refused(request: PanelRequest, event: EventType, *, acts_on: str = "POST") -> PermissionDenied:
    """For rights that depend on more than the role: the attempt is recorded, and the 403 is there to be raised."""
    record_denied(request, _event(request, event, acts_on), by=actor_of(request), team=request.team)
    return PermissionDenied()


def members_change(event: EventType) -> Callable[[View], View]:
    """For pages that every insider reads: what only looks on (an auditor, a site admin) changes nothing there."""

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: PanelRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method not in {"GET", "HEAD"} and request.access.team_role is None:
                raise refused(request, event)
            return view(request, *args, **kwargs)

        return gate

    return decorate


def actor_of(request: HttpRequest) -> Actor:
    """Who acts, as the audit log wants it. Before sign-in: anonymous."""
    nobody = Actor(
        type="anonymous",
        ip=getattr(request, "client_ip", ""),
        user_agent=request.headers.get("User-Agent", ""),
        request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
    )
    person = request.user if hasattr(request, "user") else None
    if not isinstance(person, User):
        return nobody
    access: Access = getattr(request, "access", None) or access_of(person)
    return replace(
        nobody,
        type="user",
        id=str(person.pk),
        label=person.email,
        role=access.role,
        auth_method=auth_method(request, person),
        session_ref=_session_ref(request),
        person=person,
    )


def _event(request: HttpRequest, event: EventType | None, acts_on: str) -> EventType:
    return event if event is not None and request.method == acts_on else EventType.ACCESS_DENIED


def _private(response: HttpResponseBase) -> HttpResponseBase:
    """What a person saw stays with them: nothing keeps it, not even the back button after signing out."""
    patch_cache_control(response, no_store=True, private=True)
    return response


def _enter(request: HttpRequest, slug: str | None) -> PanelRequest:
    """Read who asks and where: the person was loaded for this very request, the team and their role are one query.

    Raises Http404 for a team that does not exist. For an outsider that is as much work as one that does, the row in the
    log too: the time of an answer must not tell them apart.
    """
    panel = cast("PanelRequest", request)
    panel.team = None if slug is None else members.seen_by(panel.user).filter(slug=slug).first()
    panel.access = access_to(panel.user, panel.team)
    if slug is not None and panel.team is None:
        raise Http404 if panel.access.is_insider else _hidden(panel)
    return panel


def access_to(person: User, team: Team | None) -> Access:
    """What the person of this request may do in a team that was read with `seen_by`."""
    role = TeamRole(team.role) if team is not None and team.role and team.archived_at is None else None
    return granted(SiteRole(person.site_role), role)


def _hidden(request: PanelRequest) -> Http404:
    """An attempt on what is not theirs. It goes to the site's log: the team must not learn who the outsiders are."""
    record_denied(request, EventType.ACCESS_DENIED, by=actor_of(request))
    return Http404()


def _session_ref(request: HttpRequest) -> str:
    key = request.session.session_key
    return sessions.reference(key) if key else ""
