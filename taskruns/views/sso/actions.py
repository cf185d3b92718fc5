"""The pages of single sign-on: redirect to the provider, callback, connect and disconnect."""

from typing import Any, cast

import structlog
from allauth.account.adapter import get_adapter as account_adapter
from allauth.account.utils import get_next_redirect_url
from allauth.socialaccount.adapter import get_adapter as social_adapter
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from taskruns.access.gate import PanelRequest, actor_of, anyone, first_factor_enough, requires_recent_auth
from taskruns.services.people import sso_accounts
from taskruns.services.user_errors import UserError
from taskruns.views.errors import error_page
from taskruns.views.user_errors import shown_as_message

from .provider import CONFIRM, CONNECT, LOGIN, OidcAdapter, OidcProvider, provider
from .sign_in import BAD_ANSWER, refuse, word_for

log = structlog.get_logger(__name__)

NO_ANSWER = (
    "The single sign-on provider does not respond. Nothing was changed. "
    "Try again in a minute, or sign in with your password."
)


class _Callback(OAuth2CallbackView):  # type: ignore[misc]
    def _get_state(self, request: HttpRequest, provider: OidcProvider) -> tuple[Any, Any]:
        state, stopped = super()._get_state(request, provider)
        self.adapter.state = state or {}
        return state, stopped


def _redirect_to_provider(request: HttpRequest, process: str, next_url: str | None) -> HttpResponse:
    mine = social_adapter().get_provider(request, provider().id)
    try:
        away: HttpResponse = mine.redirect(request, process, next_url)
    except (OSError, OAuth2Error, ValueError) as error:
        log.warning("single_sign_on_unreachable", error=word_for(error))
        return error_page(request, 502, "Single sign-on unavailable", NO_ANSWER)
    return away


@anyone
@require_POST
def start(request: HttpRequest) -> HttpResponse:
    return _redirect_to_provider(request, LOGIN, get_next_redirect_url(request))


@anyone
@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """The provider redirects people back here."""
    mine = provider()
    # RFC 9207: an answer that names another issuer was meant for another client.
    if request.GET.get("iss", mine.issuer) != mine.issuer:
        return refuse(request, BAD_ANSWER, why="issuer of the answer")
    view = _Callback.adapter_view(OidcAdapter(request, mine.id))
    try:
        return cast("HttpResponse", view(request))
    except UserError as error:
        return refuse(request, error.sentence, why="identity")
    except (OSError, OAuth2Error) as error:
        # The discovery document became unreachable or invalid after the person left for the provider.
        log.warning("single_sign_on_refused", why=word_for(error))
        return refuse(request, BAD_ANSWER, why="single sign-on")


@requires_recent_auth
@require_POST
def connect(request: PanelRequest) -> HttpResponse:
    return _redirect_to_provider(request, CONNECT, None)


@requires_recent_auth
@require_POST
def disconnect(request: PanelRequest) -> HttpResponse:
    with shown_as_message(request):
        if sso_accounts.disconnect(request.user, provider(), by=actor_of(request)):
            messages.success(request, "Single sign-on disconnected from your account.")
    return redirect("profile")


@first_factor_enough
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: PanelRequest) -> HttpResponse:
    """GET asks to confirm at the provider; POST redirects there."""
    if sso_accounts.account_of(request.user, provider()) is None:
        raise Http404
    if request.method == "POST":
        return _redirect_to_provider(request, CONFIRM, get_next_redirect_url(request))
    methods = account_adapter().get_reauthentication_methods(request.user)
    others = [method for method in methods if method["id"] != "sso"]
    context = {"provider": provider().name, "next": get_next_redirect_url(request) or "", "others": others}
    return render(request, "taskruns/sso/again.html", context)
