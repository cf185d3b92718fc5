"""The gate of people. Every view declares who may reach it: `@requires(Action.X)`, `@signed_in`, `@anyone` or one of
their variants below. Scripts pass through `token_gate.py`. The panel does not start if a view declares nothing.

Not signed in: the sign-in page. Not an insider of the team: 404, as if nothing existed. Insider without the right:
403. Both denials are recorded in the audit log, and remain denials if the row cannot be written.

The right is not always enough. A person who must have a second factor but has not used one reaches only the pages that
set it up. A view with `recent_auth` requires a proof of identity from the last ten minutes. A form that arrives without
one waits in the session until its person has confirmed (`unfinished.py`).
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar, cast

import structlog
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, URLResolver, reverse
from django.utils.cache import patch_cache_control
from django_htmx.middleware import HtmxDetails

from taskruns.audit import Actor, EventType
from taskruns.models import Limit, SignInCount, SiteRole, Team, TeamRole, User
from taskruns.pages.denials import NOT_A_MEMBER
from taskruns.permissions import Access, Action, access_of, granted
from taskruns.services import members
from taskruns.services.people import sessions
from taskruns.services.user_errors import UserError

from . import unfinished
from .denials import Denied, record_denied
from .recent_auth import auth_method, is_recent, lacks_second_factor
from .redirects import is_read, page_of, referring_page, to_login, with_next

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Limits per person, because each act leaves rows that nobody can delete. Acts that stop a run do not count.
ACTS = Limit("acts", 300, timedelta(minutes=10))
EXPORTS = Limit("exports", 30, timedelta(minutes=10))
# Of runs that have ended or are stopping.
NEEDLESS_CANCELS = Limit("needless cancels", 3_000, timedelta(minutes=10))
# Of IDs that only Arize may know: the calls for them are shared by the team.
LOOKUPS = Limit("lookups", 15, timedelta(minutes=1))
View = Callable[..., HttpResponseBase]
M = TypeVar("M", bound=models.Model)


class TooManyActs(UserError):
    """Nothing was done."""

    def __init__(self, limit: Limit) -> None:
        self.retry_after = int(limit.window.total_seconds())
        super().__init__(
            f"You have reached the limit of {limit.attempts} actions of this kind in {self.retry_after // 60} minutes. "
            "Nothing was changed. Cancelling runs still works. Try again in a few minutes."
        )


class PanelRequest(HttpRequest):
    """A request that has passed the gate."""

    user: User
    access: Access
    team: Team | None
    htmx: HtmxDetails
    client_ip: str


def requires(
    action: Action,
    *,
    event: EventType | None = None,
    acts_on: str = "POST",
    recent_auth: bool = False,
    keeps: tuple[str, ...] = (),
    stops_runs: bool = False,
) -> Callable[[View], View]:
    """Let the view run only for people with the right to `action`.

    A url with a `slug` belongs to a team: the view gets the team instead of the slug. `event` is the audit event of the
    method `acts_on`: a denial is recorded under that name. `recent_auth` requires a recent proof of identity; never use
    it for stopping runs. `keeps`: the fields of its form that may wait in the session during the confirmation, never a
    secret. `stops_runs`: no limit on acts applies to this view.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: HttpRequest, *args: Any, slug: str | None = None, **kwargs: Any) -> HttpResponseBase:
            denied_as = _event(request, event, acts_on)
            if not _has_person(request):
                return _anonymous(request, denied_as)
            panel = _enter(request, slug)
            if panel.team is not None and not panel.access.is_insider:
                raise _hidden(panel)
            if not panel.access.may(action):
                record_denied(panel, denied_as, by=actor_of(panel), team=panel.team)
                raise Denied(action)
            if (stopped := _missing_auth(panel, denied_as, recent_auth=recent_auth, keeps=keeps)) is not None:
                return stopped
            if not stops_runs:
                _spend(panel)
            team = () if panel.team is None else (panel.team,)
            return _private(view(panel, *team, *args, **kwargs))

        return _declared(gate, action, recent_auth=recent_auth, keeps=keeps)

    return decorate


def signed_in(view: View) -> View:
    """For pages that every signed-in person has: the home page, their own profile."""
    return _for_everyone(view)


def ends_own_sessions(view: View) -> View:
    """Like `signed_in`, without the limit on acts: people must always be able to end their own sessions."""
    return _for_everyone(view, ends_session=True)


def requires_recent_auth(view: View) -> View:
    """For changes to how a person signs in, which a stolen session must not make. Works without a second factor."""
    return _for_everyone(view, recent_auth=True, before_second_factor=True)


def first_factor_enough(view: View) -> View:
    """For setting up a second factor and for signing out. Works without a second factor."""
    return _for_everyone(view, before_second_factor=True)


def anyone(view: View) -> View:
    """For the few pages that need no sign-in."""
    return _declared(view, "anyone")


def by_method(*, read: View, act: View) -> View:
    """Two gates at one url: one for reading, one for acting."""

    def choose(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return (read if is_read(request) else act)(request, *args, **kwargs)

    return _declared(choose, f"{read.declared_access}, {act.declared_access}")  # type: ignore[attr-defined]


def by_field(name: str, value: str, *, act: View, otherwise: View) -> View:
    """Two gates at one url: `act` if the request's body has this field with this value."""

    def choose(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return (act if request.POST.get(name) == value else otherwise)(request, *args, **kwargs)

    return _declared(choose, f"{otherwise.declared_access}, {act.declared_access}")  # type: ignore[attr-defined]


def members_change(event: EventType) -> Callable[[View], View]:
    """For pages that every insider reads but only members change, not auditors or site admins."""

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: PanelRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not is_read(request) and request.access.team_role is None:
                raise refused(request, event, sentence=NOT_A_MEMBER)
            return view(request, *args, **kwargs)

        return gate

    return decorate


def check_declared(patterns: Iterable[URLPattern | URLResolver]) -> None:
    """Refuse to start with a view that declares no access."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            check_declared(pattern.url_patterns)
        elif not hasattr(pattern.callback, "declared_access"):
            message = f"The view of {pattern.pattern} declares no access."
            raise ImproperlyConfigured(message)


def owned(request: PanelRequest, rows: "models.QuerySet[M]", pk: uuid.UUID) -> M:
    """The row `pk` of the request's team. Missing and foreign rows give the same 404; only the latter is recorded."""
    row = rows.filter(team=request.team, pk=pk).first()
    if row is not None:
        return row
    if rows.model._default_manager.filter(pk=pk).exists():
        raise _hidden(request)
    raise Http404


def mine(request: PanelRequest, rows: "models.QuerySet[M]", pk: int) -> M:
    """The person's own row `pk`. Missing rows and other people's give the same 404; only the latter is recorded."""
    row = rows.filter(user=request.user, pk=pk).first()
    if row is not None:
        return row
    if rows.filter(pk=pk).exists():
        raise _hidden(request)
    raise Http404


def refused(
    request: PanelRequest, event: EventType, *, acts_on: str = "POST", action: Action | None = None, sentence: str = ""
) -> Denied:
    """For rights that depend on more than the role: record the denial and return the exception to raise."""
    record_denied(request, _event(request, event, acts_on), by=actor_of(request), team=request.team)
    return Denied(action, sentence=sentence)


def actor_of(request: HttpRequest) -> Actor:
    """The acting person, in the form of the audit log. Anonymous before sign-in."""
    anonymous = Actor(
        type="anonymous",
        ip=getattr(request, "client_ip", ""),
        user_agent=request.headers.get("User-Agent", ""),
        request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
    )
    person = request.user if hasattr(request, "user") else None
    if not isinstance(person, User):
        return anonymous
    access: Access = getattr(request, "access", None) or access_of(person)
    return replace(
        anonymous,
        type="user",
        id=str(person.pk),
        label=person.label,
        role=access.role,
        auth_method=auth_method(request, person),
        session_ref=_session_ref(request),
        person=person,
    )


def access_to(person: User, team: Team | None) -> Access:
    """What a person may do in a team that was loaded with `seen_by`."""
    role = TeamRole(team.role) if team is not None and team.role and team.archived_at is None else None
    return granted(SiteRole(person.site_role), role)


def _declared(view: View, access: Action | str, *, recent_auth: bool = False, keeps: tuple[str, ...] = ()) -> View:
    """For `check_declared` and for tests."""
    view.declared_access = access  # type: ignore[attr-defined]
    view.needs_recent_auth = recent_auth  # type: ignore[attr-defined]
    view.keeps = keeps  # type: ignore[attr-defined]
    return view


def _for_everyone(
    view: View, *, recent_auth: bool = False, before_second_factor: bool = False, ends_session: bool = False
) -> View:
    @wraps(view)
    def gate(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not _has_person(request):
            return _anonymous(request, EventType.ACCESS_DENIED)
        panel = _enter(request, None)
        stopped = _missing_auth(
            panel, EventType.ACCESS_DENIED, recent_auth=recent_auth, before_second_factor=before_second_factor
        )
        if stopped is not None:
            return stopped
        if not ends_session:
            _spend(panel)
        return _private(view(panel, *args, **kwargs))

    return _declared(gate, "signed in", recent_auth=recent_auth)


def _has_person(request: HttpRequest) -> bool:
    """Whether someone is signed in. An act is judged by the account as it is now: a form may have waited for its turn
    since the account was loaded.
    """
    if not request.user.is_authenticated or request.method in SAFE_METHODS:
        return request.user.is_authenticated
    now = User.objects.filter(pk=request.user.pk, is_active=True)
    site_role = now.values_list("site_role", flat=True).first()
    if site_role is None:
        request.user = AnonymousUser()
        return False
    request.user.site_role = site_role
    return True


def _enter(request: HttpRequest, slug: str | None) -> PanelRequest:
    """Add the team and the person's access to the request, in one query.

    Raises Http404 if the team does not exist. For an outsider, a missing team costs as much work as an existing one,
    including the audit row, so that the response time does not reveal which teams exist.
    """
    panel = cast("PanelRequest", request)
    panel.team = None if slug is None else members.seen_by(panel.user, slug)
    panel.access = access_to(panel.user, panel.team)
    if slug is not None and panel.team is None:
        raise Http404 if panel.access.is_insider else _hidden(panel)
    return panel


def _anonymous(request: HttpRequest, event: EventType) -> HttpResponse:
    """GETs redirect to sign-in and are not recorded: open pages keep polling after the session ends."""
    if request.method not in SAFE_METHODS:
        record_denied(request, event, by=actor_of(request), why="not signed in")
    return to_login(request)


def _missing_auth(
    request: PanelRequest,
    event: EventType,
    *,
    recent_auth: bool,
    before_second_factor: bool = False,
    keeps: tuple[str, ...] = (),
) -> HttpResponse | None:
    """The response if the session lacks a second factor or a recent proof of identity, else None.

    A GET is redirected to give the proof and comes back. So is a POST, whose form is sent again after the proof.
    """
    if not before_second_factor and lacks_second_factor(request, request.user, request.team):
        return _refuse_without_factor(request, event)
    if recent_auth and not is_recent(request, request.user):
        return _confirm_first(request, event, keeps)
    if recent_auth and not is_read(request):
        unfinished.forget(request)
    return None


def spend(request: PanelRequest, limit: Limit) -> None:
    """Count one act of the person. Raises TooManyActs, which is not recorded: each refusal would add a row."""
    if not try_spend(request, limit):
        raise TooManyActs(limit)


def try_spend(request: PanelRequest, limit: Limit) -> bool:
    """Count one act of the person. False, and not counted, if there were too many."""
    return SignInCount.objects.try_count(limit, str(request.user.pk))


def _spend(request: PanelRequest) -> None:
    """Count the request if it changes something. Raises TooManyActs."""
    if request.method not in SAFE_METHODS:
        spend(request, ACTS)


def _refuse_without_factor(request: PanelRequest, event: EventType) -> HttpResponse:
    """Deny and record every change, whatever the client's headers say; redirect reads to the set-up."""
    url = reverse("factors")
    if not is_read(request):
        record_denied(request, event, by=actor_of(request), team=request.team, why="no second factor")
    if request.htmx:
        return _leave_for(with_next(url, page_of(request.htmx)))
    if is_read(request):
        return HttpResponseRedirect(with_next(url, request.get_full_path()))
    context = {"url": with_next(url, referring_page(request))}
    return render(request, "taskruns/people/second_factor.html", context, status=403)


def _confirm_first(request: PanelRequest, event: EventType, keeps: tuple[str, ...]) -> HttpResponse:
    """Deny and record every change, whatever the client's headers say, and let its form wait for the proof."""
    target = request.get_full_path()
    if not is_read(request):
        record_denied(request, event, by=actor_of(request), team=request.team, why="no recent sign-in")
        unfinished.keep(request, request.user, keeps=keeps)
        target = reverse("confirm-finish")
    elif request.htmx:
        target = page_of(request.htmx)
    url = with_next(reverse("confirm"), target)
    return _leave_for(url) if request.htmx else HttpResponseRedirect(url)


def _leave_for(url: str) -> HttpResponse:
    """Make htmx leave the page."""
    response = HttpResponse(status=401)
    response["HX-Redirect"] = url
    return response


def _hidden(request: PanelRequest) -> Http404:
    """Record an outsider's attempt in the site log: the team must not learn who the outsider is."""
    record_denied(request, EventType.ACCESS_DENIED, by=actor_of(request))
    return Http404()


def _event(request: HttpRequest, event: EventType | None, acts_on: str) -> EventType:
    return event if event is not None and request.method == acts_on else EventType.ACCESS_DENIED


def _private(response: HttpResponseBase) -> HttpResponseBase:
    """Forbid caching: after signing out, not even the back button may show the page again."""
    patch_cache_control(response, no_store=True, private=True)
    return response


def _session_ref(request: HttpRequest) -> str:
    key = request.session.session_key
    return sessions.reference(key) if key else ""
