"""Proving again who one is, for acts that a stolen session must not be enough for.

The proof itself is a page of its own for each way: the password here, codes and passkeys in `factor_checks.py`, single
sign-on in `views/sso/`.
"""

from urllib.parse import urlencode

from allauth.account import views as account
from allauth.account.adapter import get_adapter
from allauth.account.utils import get_next_redirect_url
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, first_factor_enough
from taskruns.views.errors import error_page

NO_WAY = (
    "Your account has neither a password nor a second factor, so the panel cannot ask you again who you are. "
    "Ask whoever runs it to reset your sign-in."
)


@first_factor_enough
@require_safe
def confirm(request: PanelRequest) -> HttpResponse:
    """Leads to the way in which this person confirms who they are, and from there to `next`."""
    ways = get_adapter().get_reauthentication_methods(request.user)
    if not ways:
        return error_page(request, 403, "No way to confirm", NO_WAY)
    target = get_next_redirect_url(request)
    return redirect(ways[0]["url"] + (f"?{urlencode({'next': target})}" if target else ""))


confirm_by_password = first_factor_enough(account.reauthenticate)
