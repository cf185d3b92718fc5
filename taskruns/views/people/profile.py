"""What everybody has: their profile, help, the table of rights, and the ways to confirm who they are."""

from typing import Any
from urllib.parse import urlencode

from allauth.account import views as account
from allauth.account.adapter import get_adapter
from allauth.account.utils import get_next_redirect_url
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from taskruns.access.gate import PanelRequest, actor_of, first_factor_enough, signed_in
from taskruns.forms.fields import posted
from taskruns.forms.people import ProfileForm
from taskruns.models import User
from taskruns.pages.help import help_page
from taskruns.pages.people import rights_table
from taskruns.permissions import SITE_ROLES, TEAM_ROLES
from taskruns.services.people import accounts, sso_accounts
from taskruns.views.errors import error_page

from .sign_in import PasswordChange

NO_WAY = (
    "Your account has neither a password nor a second factor, so the panel cannot ask you again who you are. "
    "Ask whoever runs it to reset your sign-in."
)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: PanelRequest) -> HttpResponse:
    form = ProfileForm(posted(request), initial=_profile_of(request.user))
    if form.is_valid():
        if accounts.change_profile(request.user, **form.cleaned_data, by=actor_of(request)):
            messages.success(request, "Your profile is saved.")
        return redirect("profile")
    context = {"form": form, "sign_on": _sign_on(request.user), "has_password": request.user.has_usable_password()}
    status = 422 if request.method == "POST" else 200
    return render(request, "taskruns/people/profile.html", context, status=status)


def _profile_of(person: User) -> dict[str, Any]:
    return {"time_zone": person.time_zone, "theme": person.theme, "shortcuts": person.shortcuts}


def _sign_on(person: User) -> dict[str, Any] | None:
    """None where there is no single sign-on."""
    if settings.OIDC is None:
        return None
    return {"provider": settings.OIDC.name, "is_connected": sso_accounts.account_of(person, settings.OIDC) is not None}


@signed_in
@require_safe
def explain(request: PanelRequest) -> HttpResponse:
    """What the words on the other pages mean."""
    return render(request, "taskruns/help.html", {"help": help_page()})


@signed_in
@require_safe
def rights(request: PanelRequest) -> HttpResponse:
    """The very table of `taskruns.permissions`, for everybody."""
    given = [(role.label.lower(), rights) for role, rights in (TEAM_ROLES | SITE_ROLES).items() if role.value]
    return render(request, "taskruns/people/rights.html", {"table": rights_table(given)})


@first_factor_enough
@require_safe
def confirm(request: PanelRequest) -> HttpResponse:
    """Leads to the way in which this person confirms who they are, and from there to `next`."""
    ways = get_adapter().get_reauthentication_methods(request.user)
    if not ways:
        return error_page(request, 403, "No way to confirm", NO_WAY)
    target = get_next_redirect_url(request)
    return redirect(ways[0]["url"] + (f"?{urlencode({'next': target})}" if target else ""))


@signed_in
@sensitive_post_parameters("oldpassword", "password1", "password2")
def change_password(request: PanelRequest) -> HttpResponseBase:
    if not request.user.has_usable_password():
        messages.info(request, "You sign in by single sign-on: there is no password here to change.")
        return redirect("profile")
    answer: HttpResponseBase = _change(request)
    return answer


_change = PasswordChange.as_view()
password_again = first_factor_enough(account.reauthenticate)
