"""The page of an invitation link: for new people, for people with an account, and for invalid links."""

from urllib.parse import urlencode

import structlog
from allauth.account.forms import LoginForm
from django.conf import settings
from django.contrib import messages
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from taskruns.access.denials import record_denied
from taskruns.access.gate import actor_of, anyone
from taskruns.audit import EventType, Target
from taskruns.forms.fields import posted
from taskruns.forms.teams import AcceptForm
from taskruns.models import Invitation, User
from taskruns.pages.teams import InvitationRow
from taskruns.pages.values import Moment
from taskruns.services import invitations
from taskruns.services.invitations import InvitationInvalid
from taskruns.services.people import accounts

from .people.sign_in_limits import for_strangers
from .user_errors import shown_on_form

log = structlog.get_logger(__name__)
TEMPLATE = "taskruns/teams/invitation.html"


@anyone
@for_strangers
@sensitive_post_parameters("password1", "password2")
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Never cached: the page depends on who opens it, and the token works until it is used."""
    try:
        response = _answer(request, invitations.open_invitation(token))
    except InvitationInvalid as error:
        event = EventType.INVITATION_ACCEPT if request.method == "POST" else EventType.ACCESS_DENIED
        record_denied(request, event, by=actor_of(request), why="invalid invitation")
        response = render(request, TEMPLATE, {"problem": error.sentence}, status=404)
    add_never_cache_headers(response)
    return response


def _answer(request: HttpRequest, found: Invitation) -> HttpResponse:
    if isinstance(request.user, User):
        return _for_signed_in(request, found, request.user)
    if settings.SSO_ONLY or accounts.find_person(found.email) is not None:
        return _must_sign_in(request, found)
    return _for_stranger(request, found)


def _for_signed_in(request: HttpRequest, found: Invitation, person: User) -> HttpResponse:
    if person.email != found.email:
        if request.method == "POST":
            target = Target("invitation", str(found.pk), found.email)
            why = "invitation for another person"
            record_denied(request, EventType.INVITATION_ACCEPT, by=actor_of(request), why=why, target=target)
        problem = (
            f"This invitation is for {found.email}, but you are signed in as {person.email}. "
            "Sign out, then open the link again."
        )
        return _page(request, found, problem=problem)
    if request.method != "POST":
        return _page(request, found, can_accept=True)
    invitations.accept_invitation(found, person=person, by=actor_of(request))
    messages.success(request, f"You are now a member of {found.team.name}.")
    return redirect("board", slug=found.team.slug)


def _must_sign_in(request: HttpRequest, found: Invitation) -> HttpResponse:
    login_url = f"{reverse('account_login')}?{urlencode({'next': request.path})}"
    return _page(request, found, must_sign_in=True, login_url=login_url, sso_only=settings.SSO_ONLY)


def _for_stranger(request: HttpRequest, found: Invitation) -> HttpResponse:
    form = AcceptForm(posted(request))
    if form.is_valid():
        name, password = form.cleaned_data["name"], form.cleaned_data["password1"]
        with shown_on_form(form, unless=(InvitationInvalid,)):
            person = invitations.accept_with_new_account(found, name=name, password=password, by=actor_of(request))
            return _sign_in(request, person, password, found.team.slug)
    return _page(request, found, form=form)


def _sign_in(request: HttpRequest, person: User, password: str, slug: str) -> HttpResponse:
    """Sign in through the sign-in page's own form: same throttle, new session key, method recorded."""
    form = LoginForm({"login": person.email, "password": password}, request=request)
    if not form.is_valid():
        messages.info(request, "Account created. Please sign in.")
        return redirect("account_login")
    try:
        response: HttpResponse = form.login(request, redirect_url=reverse("board", args=[slug]))
    except DatabaseError:
        # The account and the membership exist; only the sign-in could not be recorded, so it does not count.
        log.exception("joined_but_not_signed_in")
        messages.info(request, "Account created, but you could not be signed in. Please sign in.")
        return redirect("account_login")
    return response


def _page(request: HttpRequest, found: Invitation, **more: object) -> HttpResponse:
    row = InvitationRow(str(found.pk), found.email, found.role, Moment.of(found.expires_at))
    status = 422 if request.method == "POST" else 200
    return render(request, TEMPLATE, {"invitation": row, "team": found.team.name} | more, status=status)
