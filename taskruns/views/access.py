"""The only gate of views. Every view declares who may reach it: `@requires(Action.X)`, `@signed_in` or `@anyone`.

Not signed in: the login page. Not an insider of the team: 404, as if nothing were there. Insider without the right:
403. Both refusals leave a row in the audit log, and stay refusals if that row cannot be written.
"""

import hashlib
import re
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
from django.shortcuts import resolve_url
from django.urls import ResolverMatch, URLPattern, URLResolver
from django.utils.cache import patch_cache_control
from django_htmx.middleware import HtmxDetails

from taskruns.audit import Actor, EventType, Target
from taskruns.models import SiteRole, Team, TeamRole, User
from taskruns.permissions import Access, Action, access_of, granted
from taskruns.services import audit as audit_service
from taskruns.services.audit import Try

View = Callable[..., HttpResponseBase]
# Parts of a path that open a door by themselves.
SECRETS = frozenset({"token"})
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
M = TypeVar("M", bound=models.Model)


class PanelRequest(HttpRequest):
    """A request that has passed the gate."""

    user: User
    access: Access
    team: Team | None
    htmx: HtmxDetails
    client_ip: str


def requires(action: Action, *, event: EventType | None = None, acts_on: str = "POST") -> Callable[[View], View]:
    """Let the view run only for people with the right to `action`.

    A url with a `slug` is a team's: the view gets the team in its place. `event` is the audit event that the method
    `acts_on` would have made: its denial is recorded under that name.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: HttpRequest, *args: Any, slug: str | None = None, **kwargs: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return to_login(request)
            panel = _enter(request, slug)
            if panel.team is not None and not panel.access.is_insider:
                raise _hidden(panel)
            if not panel.access.may(action):
                record_denied(panel, _event(request, event, acts_on), team=panel.team)
                raise PermissionDenied
            team = () if panel.team is None else (panel.team,)
            return _private(view(panel, *team, *args, **kwargs))

        return _declared(gate, action)

    return decorate


def signed_in(view: View) -> View:
    """For pages that every person has: their home, their own profile."""

    @wraps(view)
    def gate(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return to_login(request)
        panel = _enter(request, None)
        return _private(view(panel, *args, **kwargs))

    return _declared(gate, "signed in")


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


def refused(request: PanelRequest, event: EventType, *, acts_on: str = "POST") -> PermissionDenied:
    """For rights that depend on more than the role: the try is recorded, and the 403 is there to be raised."""
    record_denied(request, _event(request, event, acts_on), team=request.team)
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
        auth_method=_auth_method(request),
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


def _event(request: HttpRequest, event: EventType | None, acts_on: str) -> EventType:
    return event if event is not None and request.method == acts_on else EventType.ACCESS_DENIED


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
    record_denied(request, EventType.ACCESS_DENIED)
    return Http404()


def record_forged(request: HttpRequest, *, why: str) -> None:
    """A form that did not come from the panel is refused before the gate: in the log of the team for its insiders."""
    slug = request.resolver_match.kwargs.get("slug") if request.resolver_match else None
    team = Team.objects.filter(slug=slug).first() if slug else None
    panel = cast("PanelRequest", request)
    access = access_of(request.user if isinstance(request.user, User) else None, team)
    if team is not None and access.is_insider:
        panel.team, panel.access = team, access
    record_denied(request, EventType.ACCESS_DENIED, team=team if access.is_insider else None, why=why)


def record_throttled(request: HttpRequest) -> None:
    """Allauth refused before its own view was reached."""
    page = request.resolver_match.url_name if request.resolver_match else ""
    if page == "account_login":
        login = request.POST.get("login", "")
        audit_service.record_failed_sign_in(login, "throttled", by=actor_of(request))
        return
    event = EventType.AUTH_PASSWORD_CHANGE if page == "account_change_password" else EventType.ACCESS_DENIED
    record_denied(request, event, why="too many tries")


def record_denied(
    request: HttpRequest, event: EventType, *, team: Team | None = None, why: str = "", target: Target | None = None
) -> None:
    """The one place where a refused try becomes a row."""
    audit_service.record_denial(event, _try(request), by=actor_of(request), team=team, why=why, target=target)


def _try(request: HttpRequest) -> Try:
    match = request.resolver_match
    if match is None:
        return Try("", "", request.method or "")
    ids = {name: match.kwargs[name] for name in ("run_id", "task_id", "credential_id") if name in match.kwargs}
    return Try(match.url_name or "", _path(request.path, match), request.method or "", **ids)


def _path(path: str, match: ResolverMatch) -> str:
    """The path; of one that lets its reader in, the pattern: no row may hold a live link."""
    return _PARAMETER.sub(r"<\1>", f"/{match.route}") if SECRETS & match.kwargs.keys() else path


def _with_next(url: str, target: str) -> str:
    path = urlsplit(target)
    local = target.startswith("/") and not target.startswith("//") and not path.netloc
    return f"{url}?{urlencode({'next': target})}" if local else url


def _page_of(htmx: HtmxDetails) -> str:
    """The panel's page that asked by htmx, as the browser says; what is no URL of this host is none."""
    try:
        return htmx.current_url_abs_path or ""
    except ValueError:
        return ""


def _auth_method(request: HttpRequest) -> str:
    """Sign-in notes each factor that was shown, in order: `password`, `password+mfa`."""
    methods = request.session.get("account_authentication_methods", [])
    return "+".join(str(entry.get("method", "")) for entry in methods)


def _session_ref(request: HttpRequest) -> str:
    key = request.session.session_key
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""
