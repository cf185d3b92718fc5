"""Confirming one's identity again, for actions that must not work with a stolen session.

Each method has its own page: the password here, codes and passkeys in `factor_checks.py`, single sign-on in
`views/sso/`.
"""

from urllib.parse import urlencode

from allauth.account import views as account
from allauth.account.adapter import get_adapter
from allauth.account.utils import get_next_redirect_url
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from taskruns.access import unfinished
from taskruns.access.gate import PanelRequest, first_factor_enough
from taskruns.access.recent_auth import is_recent
from taskruns.access.redirects import with_next
from taskruns.pages.unfinished import unfinished_page
from taskruns.views.errors import error_page

NO_METHOD = (
    "Your account has neither a password nor a second factor. The panel cannot confirm that it is you. "
    "Ask your administrator to reset your sign-in."
)
SEND_AGAIN = (
    "Confirmed. Nothing was changed yet, and keys and codes were not kept. Enter them again, then send the form."
)


@first_factor_enough
@require_safe
def confirm(request: PanelRequest) -> HttpResponse:
    """Redirect to the person's first confirmation method, and from there to `next`."""
    methods = get_adapter().get_reauthentication_methods(request.user)
    if not methods:
        return error_page(request, 403, "No way to confirm your identity", NO_METHOD)
    target = get_next_redirect_url(request)
    return redirect(methods[0]["url"] + (f"?{urlencode({'next': target})}" if target else ""))


@first_factor_enough
@require_safe
def finish(request: PanelRequest) -> HttpResponse:
    """After the confirmation: send the form that waited with one click, or go back to it if a secret was not kept."""
    act = unfinished.waiting(request)
    if act is None:
        return redirect("home")
    if not is_recent(request, request.user):
        return redirect(with_next(reverse("confirm"), request.path))
    if not act.is_whole:
        messages.info(request, SEND_AGAIN)
        return redirect(act.page)
    page = unfinished_page(act.path, act.fields, back_url=act.page)
    return render(request, "taskruns/people/finish.html", {"page": page})


confirm_by_password = first_factor_enough(account.reauthenticate)
