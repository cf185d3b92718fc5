"""Single sign-on: who comes in by it, as whom, and the pages around it. The flow itself is in `oidc_flow.py`."""

import time
from typing import Any, cast

import structlog
from allauth.account.adapter import get_adapter as account_adapter
from allauth.account.internal.flows.login import record_authentication
from allauth.account.utils import get_next_redirect_url
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.adapter import get_adapter as social_adapter
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from taskruns.access import recent_auth
from taskruns.access.gate import PanelRequest, actor_of, anyone, signed_in_at_least, signed_in_freshly
from taskruns.models import User
from taskruns.services import audit
from taskruns.services.people import sso_accounts
from taskruns.services.people.sso_accounts import Identity, IdentityRefused
from taskruns.sso import Provider
from taskruns.views.errors import error_page

from .provider import AGAIN, CONNECT, LOGIN, AnswerRefused, OidcAdapter, OidcProvider, provider

log = structlog.get_logger(__name__)

# RFC 8176: ways of signing in that are more than a password.
SECOND_FACTORS = {"mfa", "otp", "hwk", "swk", "fpt", "face", "iris", "retina", "sc", "sms"}
SKEW = 60  # seconds between the provider's clock and ours
NO_ANSWER = "Single sign-on does not answer right now. Try again in a minute, or sign in with your password."
BAD_ANSWER = "Single sign-on gave an answer that the panel cannot accept, so nobody was signed in. Please start again."
GIVEN_UP = "You broke single sign-on off, so nobody was signed in."
SOMEBODY_ELSE = "Single sign-on answered for somebody else than the person who is signed in here."
NOT_AGAIN = "Single sign-on did not ask you to sign in anew. Sign out there first, then try again."


class IdentityAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """One provider, from the environment; nothing in the database can add another."""

    def list_apps(self, request: HttpRequest, provider: str | None = None, client_id: str | None = None) -> list[Any]:
        mine: Provider | None = settings.OIDC
        if mine is None or provider not in {None, mine.id, "openid_connect"} or client_id not in {None, mine.client_id}:
            return []
        kept = {"server_url": mine.discovery_url, "oauth_pkce_enabled": True}
        return [
            SocialApp(
                provider="openid_connect",
                provider_id=mine.id,
                name=mine.name[:40],
                client_id=mine.client_id,
                secret=mine.client_secret,
                settings=kept,
            )
        ]

    def get_provider(self, request: HttpRequest, provider: str, client_id: str | None = None) -> OidcProvider:
        return OidcProvider(request, app=self.get_app(request, provider, client_id))

    def get_requests_session(self) -> Any:
        """No redirects: secrets and tokens go to the address that was checked, or nowhere."""
        session = super().get_requests_session()
        session.max_redirects = 0
        session.trust_env = False
        return session

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """By now allauth knows whether issuer and subject belong to somebody here. All that follows is ours."""
        sociallogin.token = None
        try:
            stopped = _arrived(request, sociallogin, identity_of(sociallogin.claims))
        except IdentityRefused as refused:
            raise ImmediateHttpResponse(_refused(request, refused.sentence, why="identity")) from None
        if stopped is not None:
            raise ImmediateHttpResponse(stopped)

    def on_authentication_error(
        self, request: HttpRequest, provider: Any, error: Any = None, exception: Any = None, extra_context: Any = None
    ) -> None:
        why = str(exception) if isinstance(exception, AnswerRefused) else type(exception).__name__
        log.warning("single_sign_on_refused", error=str(error), why=why)
        sentence = GIVEN_UP if error == "cancelled" else BAD_ANSWER
        raise ImmediateHttpResponse(_refused(request, sentence, why="single sign-on"))


def identity_of(claims: dict[str, Any]) -> Identity:
    groups = claims.get(provider().groups_claim)
    return Identity(
        provider=provider(),
        subject=str(claims["sub"]),
        email=str(claims.get("email") or ""),
        is_verified=claims.get("email_verified") is True,
        name=str(claims.get("name") or ""),
        groups=frozenset(map(str, groups)) if isinstance(groups, list) else None,
    )


def _arrived(request: HttpRequest, login: SocialLogin, identity: Identity) -> HttpResponse | None:
    """What the person was sent off for, done. None: they are to be signed in."""
    state = login.state
    state["auth_time"] = _auth_time(login.claims)
    state["second_factor"] = bool(SECOND_FACTORS & set(map(str, login.claims.get("amr") or [])))
    if state["process"] == AGAIN:
        return _entered_again(request, login)
    if state["process"] == CONNECT:
        return _connected(request, login, identity)
    account: SocialAccount = login.account
    if not login.is_existing:
        account = login.account = sso_accounts.admit(identity, by=actor_of(request))
        login.user = account.user
    if account.user.is_active:
        sso_accounts.follow_groups(account.user, identity, by=actor_of(request))
    return None


def _auth_time(claims: dict[str, Any]) -> float:
    """Seconds since 1970; 0 if the provider does not tell. A moment that cannot be is no proof of anything.

    OpenID Connect Core 2: a JSON number. One in the future would stay fresh until then.
    """
    told = claims.get("auth_time")
    if told is None:
        return 0.0
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told <= time.time() + SKEW:
        raise IdentityRefused(BAD_ANSWER)
    return float(told)


def _entered_again(request: HttpRequest, login: SocialLogin) -> HttpResponse:
    if not isinstance(request.user, User) or not login.is_existing or login.user.pk != request.user.pk:
        return _refused(request, SOMEBODY_ELSE, why="somebody else")
    at = login.state["auth_time"]
    if at and at < login.state["asked_at"] - SKEW:
        return _refused(request, NOT_AGAIN, why="not asked anew")
    shown = {"auth_time": at or time.time(), "second_factor": login.state["second_factor"], "reauthenticated": True}
    record_authentication(request, request.user, "socialaccount", **shown)
    return redirect(login.state.get("next") or "home")


def _connected(request: HttpRequest, login: SocialLogin, identity: Identity) -> HttpResponse:
    if not isinstance(request.user, User):
        return _refused(request, SOMEBODY_ELSE, why="somebody else")
    sso_accounts.connect(request.user, identity, by=actor_of(request))
    messages.success(request, "Single sign-on is connected: from now on you can sign in with it.")
    return redirect("profile")


def _refused(request: HttpRequest, sentence: str, *, why: str) -> HttpResponse:
    audit.record_failed_sign_in("", "failed", why=why, by=actor_of(request))
    return error_page(request, 403, "Not signed in", sentence)


def arrived_for_good(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Signed in, perhaps after a second factor of the panel's own."""
    state = sociallogin.state
    recent_auth.note_identity(
        request, auth_time=state.get("auth_time", 0), second_factor=state.get("second_factor", False)
    )


class _Callback(OAuth2CallbackView):  # type: ignore[misc]
    def _get_state(self, request: HttpRequest, provider: OidcProvider) -> tuple[Any, Any]:
        state, stopped = super()._get_state(request, provider)
        self.adapter.state = state or {}
        return state, stopped


def _sent_off(request: HttpRequest, process: str, next_url: str | None) -> HttpResponse:
    mine = social_adapter().get_provider(request, provider().id)
    try:
        away: HttpResponse = mine.redirect(request, process, next_url)
    except (OSError, OAuth2Error, ValueError) as error:
        log.warning("single_sign_on_unreachable", error=type(error).__name__)
        return error_page(request, 502, "No single sign-on", NO_ANSWER)
    return away


@anyone
@require_POST
def start(request: HttpRequest) -> HttpResponse:
    return _sent_off(request, LOGIN, get_next_redirect_url(request))


@anyone
@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Where the provider sends people back to."""
    mine = provider()
    # RFC 9207: an answer that names another issuer was meant for somebody else.
    if request.GET.get("iss", mine.issuer) != mine.issuer:
        return _refused(request, BAD_ANSWER, why="issuer of the answer")
    view = _Callback.adapter_view(OidcAdapter(request, mine.id))
    try:
        return cast("HttpResponse", view(request))
    except (OSError, OAuth2Error) as error:
        # The provider's document went bad between the way there and the way back.
        log.warning("single_sign_on_refused", why=type(error).__name__)
        return _refused(request, BAD_ANSWER, why="single sign-on")


@signed_in_freshly
@require_POST
def connect(request: PanelRequest) -> HttpResponse:
    return _sent_off(request, CONNECT, None)


@signed_in_freshly
@require_POST
def disconnect(request: PanelRequest) -> HttpResponse:
    try:
        if sso_accounts.disconnect(request.user, provider(), by=actor_of(request)):
            messages.success(request, "Single sign-on is disconnected from your account.")
    except IdentityRefused as refused:
        messages.error(request, refused.sentence)
    return redirect("profile")


@signed_in_at_least
@require_http_methods(["GET", "HEAD", "POST"])
def again(request: PanelRequest) -> HttpResponse:
    """A GET asks to confirm with the provider, a POST leads there."""
    if sso_accounts.account_of(request.user, provider()) is None:
        raise Http404
    if request.method == "POST":
        return _sent_off(request, AGAIN, get_next_redirect_url(request))
    others = [way for way in account_adapter().get_reauthentication_methods(request.user) if way["id"] != "sso"]
    context = {"provider": provider().name, "next": get_next_redirect_url(request) or "", "others": others}
    return render(request, "taskruns/sso/again.html", context)
