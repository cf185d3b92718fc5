"""The only gate of views. Every view declares who may reach it: `@requires(Action.X)`, `@signed_in` or `@anyone`.

Not signed in: the login page. Not an insider of the team: 404, as if nothing were there. Insider without the right:
403. Both refusals leave a row in the audit log, and stay refusals if that row cannot be written.

Behind the right stands the proof: who must have a second factor and has shown none reaches only the pages that set it
up, and `fresh` views want to see within ten minutes of acting that it is still the same person.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render, resolve_url
from django.urls import URLPattern, URLResolver, reverse
from django.utils.cache import patch_cache_control
from django_htmx.middleware import HtmxDetails

from taskruns.audit import Actor, EventType
from taskruns.models import SiteRole, Team, TeamRole, User
from taskruns.permissions import Access, Action, access_of, granted
from taskruns.services import audit as audit_service
from taskruns.services import sessions

from . import proofs

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
    action: Action, *, event: EventType | None = None, acts_on: str = "POST", fresh: bool = False
) -> Callable[[View], View]:
    """Let the view run only for people with the right to `action`.

    A url with a `slug` is a team's: the view gets the team in its place. `event` is the audit event that the method
    `acts_on` would have made: its denial is recorded under that name. `fresh` asks for a recent proof of who it is;
    never for what stops runs.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: HttpRequest, *args: Any, slug: str | None = None, **kwargs: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return to_login(request)
            panel = _enter(request, slug)
            if panel.team is not None and not panel.access.is_insider:
                raise _hidden(panel)
            denied_as = event if request.method == acts_on else None
            if not panel.access.may(action):
                _record_denial(panel, denied_as, team=panel.team)
                raise PermissionDenied
            if (stopped := _unproved(panel, denied_as, fresh=fresh)) is not None:
                return stopped
            team = () if panel.team is None else (panel.team,)
            return _private(view(panel, *team, *args, **kwargs))

        return _declared(gate, action)

    return decorate


def signed_in(view: View) -> View:
    """For pages that every person has: their home, their own profile."""
    return _for_everybody(view)


def signed_in_freshly(view: View) -> View:
    """For what a stolen session must not change: how its person signs in. Open to those who lack a second factor."""
    return _for_everybody(view, fresh=True, before_second_factor=True)


def signed_in_at_least(view: View) -> View:
    """For the way to a second factor, and out: open to those who lack one."""
    return _for_everybody(view, before_second_factor=True)


def _for_everybody(view: View, *, fresh: bool = False, before_second_factor: bool = False) -> View:
    @wraps(view)
    def gate(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return to_login(request)
        panel = _enter(request, None)
        stopped = _unproved(panel, None, fresh=fresh, before_second_factor=before_second_factor)
        return _private(view(panel, *args, **kwargs)) if stopped is None else stopped

    return _declared(gate, "signed in")


def _unproved(
    request: PanelRequest, event: EventType | None, *, fresh: bool, before_second_factor: bool = False
) -> HttpResponse | None:
    """The answer to somebody whose session has not shown enough. A GET is led to the proof and back; a POST is not
    kept for later, because it may hold a key.
    """
    if not before_second_factor and proofs.lacks_second_factor(request, request.user, request.team):
        return _led_to(request, reverse("factors"), event, why="no second factor")
    if fresh and not proofs.is_fresh(request, request.user):
        return _led_to(request, reverse("confirm"), event, why="no fresh sign-in")
    return None


def _led_to(request: PanelRequest, url: str, event: EventType | None, *, why: str) -> HttpResponse:
    if request.htmx:
        response = HttpResponse(status=401)
        response["HX-Redirect"] = _with_next(url, _page_of(request.htmx))
        return response
    if request.method in {"GET", "HEAD"}:
        return HttpResponseRedirect(_with_next(url, request.get_full_path()))
    _record_denial(request, event, team=request.team, why=why)
    context = {"why": why, "url": _with_next(url, _referring_page(request))}
    return render(request, "taskruns/people/unproved.html", context, status=403)


def _referring_page(request: HttpRequest) -> str:
    """The page whose form was sent: the way back to it, if the browser tells it and it is ours."""
    parts = urlsplit(request.headers.get("Referer", ""))
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return path if parts.netloc == request.get_host() else ""


def anyone(view: View) -> View:
    """For the few pages that need no sign-in."""
    return _declared(view, "anyone")


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
    """For rights that depend on more than the role: the try is recorded, and the 403 is there to be raised."""
    _record_denial(request, event if request.method == acts_on else None, team=request.team)
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
        auth_method=proofs.ways(request, person),
        session_ref=_session_ref(request),
        person=person,
    )


def to_login(request: HttpRequest) -> HttpResponse:
    """A plain request is redirected; htmx is told to leave the page, never handed a login form for a table cell."""
    url = resolve_url(settings.LOGIN_URL)
    htmx: HtmxDetails | None = getattr(request, "htmx", None)
    if htmx:
        response = HttpResponse(status=401)
        response["HX-Redirect"] = _with_next(url, _page_of(htmx))
        return response
    return HttpResponseRedirect(_with_next(url, request.get_full_path() if request.method == "GET" else ""))


def check_declared(patterns: Iterable[URLPattern | URLResolver]) -> None:
    """Refuse to start with a view that nobody thought about."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            check_declared(pattern.url_patterns)
        elif not hasattr(pattern.callback, "declared_access"):
            message = f"The view of {pattern.pattern} declares no access."
            raise ImproperlyConfigured(message)


def _private(response: HttpResponseBase) -> HttpResponseBase:
    """What a person saw stays with them: nothing keeps it, not even the back button after signing out."""
    patch_cache_control(response, no_store=True, private=True)
    return response


def _declared(view: View, access: Action | str) -> View:
    view.declared_access = access  # type: ignore[attr-defined]
    return view


def _enter(request: HttpRequest, slug: str | None) -> PanelRequest:
    """Read who asks and where: the person was loaded for this very request, the team and their role are one query.

    Raises Http404 for a team that does not exist.
    """
    panel = cast("PanelRequest", request)
    panel.team = None if slug is None else Team.objects.seen_by(panel.user).filter(slug=slug).first()
    if slug is not None and panel.team is None:
        raise Http404
    panel.access = access_to(panel.user, panel.team)
    return panel


def access_to(person: User, team: Team | None) -> Access:
    """What the person of this request may do in a team that was read with `seen_by`."""
    role = TeamRole(team.role) if team is not None and team.role and team.archived_at is None else None
    return granted(SiteRole(person.site_role), role)


def _hidden(request: PanelRequest) -> Http404:
    """Somebody tried what is not theirs. It goes to the site's log: the team must not learn who the outsiders are."""
    _record_denial(request, None, team=None)
    return Http404()


def record_forged(request: HttpRequest, *, why: str) -> None:
    """A form that did not come from the panel is refused before the gate: in the log of the team for its insiders."""
    slug = request.resolver_match.kwargs.get("slug") if request.resolver_match else None
    team = Team.objects.filter(slug=slug).first() if slug else None
    panel = cast("PanelRequest", request)
    access = access_of(request.user if isinstance(request.user, User) else None, team)
    if team is not None and access.is_insider:
        panel.team, panel.access = team, access
    _record_denial(request, None, team=team if access.is_insider else None, why=why)


def _record_denial(request: HttpRequest, event: EventType | None, *, team: Team | None, why: str = "") -> None:
    match = request.resolver_match
    audit_service.record_denial(
        event or EventType.ACCESS_DENIED,
        by=actor_of(request),
        team=team,
        view=(match.url_name or "") if match else "",
        path=request.path,
        method=request.method or "",
        why=why,
    )


def _with_next(url: str, target: str) -> str:
    path = urlsplit(target)
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not path.netloc
    return f"{url}?{urlencode({'next': target})}" if local else url


def _page_of(htmx: HtmxDetails) -> str:
    """The panel's page that asked by htmx, as the browser says; what is no URL of this host is none."""
    try:
        return htmx.current_url_abs_path or ""
    except ValueError:
        return ""


def _session_ref(request: HttpRequest) -> str:
    key = request.session.session_key
    return sessions.reference(key) if key else ""
