"""Who comes in by single sign-on, and as whom. What the provider is asked and how it is believed is in `oidc.py`."""

import time
from typing import Any

import structlog
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from taskruns.access import recent_auth
from taskruns.access.gate import actor_of
from taskruns.allauth_compat import record_authentication
from taskruns.models import User
from taskruns.outbound import Session
from taskruns.services import audit
from taskruns.services.people import sso_accounts
from taskruns.services.people.sso_accounts import SsoProfile
from taskruns.services.user_errors import UserError
from taskruns.sso import Provider
from taskruns.views.errors import error_page

from .provider import CONFIRM, CONNECT, AnswerRefused, OidcProvider, provider, session

log = structlog.get_logger(__name__)

# RFC 8176: ways of signing in that are more than a password.
SECOND_FACTORS = {"mfa", "otp", "hwk", "swk", "fpt", "face", "iris", "retina", "sc", "sms"}
SKEW = 60  # seconds between the provider's clock and ours
BAD_ANSWER = "Single sign-on gave an answer that the panel cannot accept, so nobody was signed in. Please start again."
GIVEN_UP = "You broke single sign-on off, so nobody was signed in."
SOMEBODY_ELSE = "Single sign-on answered for somebody else than the person who is signed in here."
NOT_AGAIN = "Single sign-on did not ask you to sign in anew. Sign out there first, then try again."


class SsoAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
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

    def get_requests_session(self) -> Session:
        """For what allauth itself sends, the exchange of a code for tokens."""
        return session()

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Allauth has looked up whether issuer and subject belong to an account here. All that follows is ours."""
        sociallogin.token = None
        try:
            stopped = _arrived(request, sociallogin, profile_of(sociallogin.claims))
        except UserError as error:
            raise ImmediateHttpResponse(refuse(request, error.sentence, why="identity")) from None
        if stopped is not None:
            raise ImmediateHttpResponse(stopped)

    def on_authentication_error(
        self, request: HttpRequest, provider: Any, error: Any = None, exception: Any = None, extra_context: Any = None
    ) -> None:
        log.warning("single_sign_on_refused", error=str(error), why=word_for(exception))
        sentence = GIVEN_UP if error == "cancelled" else BAD_ANSWER
        raise ImmediateHttpResponse(refuse(request, sentence, why="single sign-on"))


def profile_of(claims: dict[str, Any]) -> SsoProfile:
    groups = claims.get(provider().groups_claim)
    return SsoProfile(
        provider=provider(),
        subject=str(claims["sub"]),
        email=str(claims.get("email") or ""),
        is_verified=claims.get("email_verified") is True,
        name=str(claims.get("name") or ""),
        groups=frozenset(map(str, groups)) if isinstance(groups, list) else None,
    )


def _arrived(request: HttpRequest, login: SocialLogin, profile: SsoProfile) -> HttpResponse | None:
    """Does what the person went to the provider for. None: allauth goes on and signs them in."""
    state = login.state
    state["auth_time"] = _auth_time(login.claims)
    state["second_factor"] = bool(SECOND_FACTORS & set(map(str, login.claims.get("amr") or [])))
    if state["process"] == CONFIRM:
        return _confirmed(request, login)
    if state["process"] == CONNECT:
        return _connected(request, profile)
    account: SocialAccount = login.account
    if not login.is_existing:
        account = login.account = sso_accounts.admit(profile, by=actor_of(request))
        login.user = account.user
    if account.user.is_active:
        sso_accounts.follow_groups(account.user, profile, by=actor_of(request))
    return None


def _auth_time(claims: dict[str, Any]) -> float:
    """Seconds since 1970; 0 if the provider does not say. A moment that cannot be is no proof of anything.

    OpenID Connect Core 2: a JSON number. One in the future would count as recent until then.
    """
    told = claims.get("auth_time")
    if told is None:
        return 0.0
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told <= time.time() + SKEW:
        raise UserError(BAD_ANSWER)
    return float(told)


def _confirmed(request: HttpRequest, login: SocialLogin) -> HttpResponse:
    if not isinstance(request.user, User) or not login.is_existing or login.user.pk != request.user.pk:
        return refuse(request, SOMEBODY_ELSE, why="somebody else")
    at = login.state["auth_time"]
    if at and at < login.state["asked_at"] - SKEW:
        return refuse(request, NOT_AGAIN, why="not asked anew")
    shown = {"auth_time": at or time.time(), "second_factor": login.state["second_factor"], "reauthenticated": True}
    record_authentication(request, request.user, "socialaccount", **shown)
    return redirect(login.state.get("next") or "home")


def _connected(request: HttpRequest, profile: SsoProfile) -> HttpResponse:
    if not isinstance(request.user, User):
        return refuse(request, SOMEBODY_ELSE, why="somebody else")
    sso_accounts.connect(request.user, profile, by=actor_of(request))
    messages.success(request, "Single sign-on is connected: from now on you can sign in with it.")
    return redirect("profile")


def word_for(error: Exception | None) -> str:
    """For the log, never a piece of what the provider sent."""
    return str(error) if isinstance(error, AnswerRefused) else type(error).__name__


def refuse(request: HttpRequest, sentence: str, *, why: str) -> HttpResponse:
    audit.record_failed_sign_in("", "failed", why=why, by=actor_of(request))
    return error_page(request, 403, "Not signed in", sentence)


def note_signed_in(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Signed in, perhaps after a second factor of the panel's own."""
    state = sociallogin.state
    recent_auth.note_sso(request, auth_time=state.get("auth_time", 0), second_factor=state.get("second_factor", False))
