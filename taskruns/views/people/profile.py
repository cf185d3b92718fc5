"""A person's own profile, and their password."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from taskruns.access.gate import PanelRequest, actor_of, signed_in
from taskruns.forms.fields import posted
from taskruns.forms.people import ProfileForm
from taskruns.models import User
from taskruns.pages import people
from taskruns.services.people import accounts, sso_accounts

from .sign_in import PasswordChange

NAME_OF_SSO = "Your name comes from single sign-on. Change it there."


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: PanelRequest) -> HttpResponse:
    form = ProfileForm(posted(request), initial=_profile_of(request.user))
    if people.follows_sso(request.user):
        form.fields["name"].disabled = True
        form.fields["name"].help_text = NAME_OF_SSO
    if form.is_valid():
        if accounts.change_profile(request.user, **form.cleaned_data, by=actor_of(request)):
            messages.success(request, "Profile saved.")
        return redirect("profile")
    has_password = request.user.has_usable_password() and not settings.SSO_ONLY
    context = {"form": form, "sign_on": _sign_on(request.user), "has_password": has_password}
    status = 422 if request.method == "POST" else 200
    return render(request, "taskruns/people/profile.html", context, status=status)


def _profile_of(person: User) -> dict[str, Any]:
    return {"name": person.name, "time_zone": person.time_zone, "theme": person.theme, "shortcuts": person.shortcuts}


def _sign_on(person: User) -> dict[str, Any] | None:
    """None if single sign-on is not configured."""
    if settings.OIDC is None:
        return None
    return {
        "provider": settings.OIDC.name,
        "is_connected": sso_accounts.account_of(person, settings.OIDC) is not None,
        "may_disconnect": not settings.SSO_ONLY,
    }


@signed_in
@sensitive_post_parameters("oldpassword", "password1", "password2")
def change_password(request: PanelRequest) -> HttpResponseBase:
    if settings.SSO_ONLY or not request.user.has_usable_password():
        messages.info(request, "You sign in with single sign-on, so you have no password to change here.")
        return redirect("profile")
    answer: HttpResponseBase = _change(request)
    return answer


_change = PasswordChange.as_view()
