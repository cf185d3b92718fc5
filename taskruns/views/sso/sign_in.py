"""Which account a single sign-on leads to. `provider.py` sends the requests to the provider and checks its answers."""

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
from taskruns.sso import Provider, read_groups
from taskruns.views.errors import error_page

from .provider import CONFIRM, CONNECT, AnswerRefused, OidcProvider, provider, session

log = structlog.get_logger(__name__)

# RFC 8176: authentication methods that count as a second factor.
SECOND_FACTORS = {"mfa", "otp", "hwk", "swk", "fpt", "face", "iris", "retina", "sc", "sms"}
SKEW = 60  # seconds of clock skew between the provider and us
BAD_ANSWER = "Single sign-on returned an answer that the panel cannot accept. You were not signed in. Start again."
TOO_LATE = (
    "Single sign-on was started more than 5 minutes ago, or in another browser. You were not signed in. Start again."
)
GIVEN_UP = "You stopped single sign-on at the provider. You were not signed in. Start again, or use your password."
OTHER_PERSON = (
    "Single sign-on returned a different person than the one signed in here. Nothing was changed. "
    "Sign out at the provider, then try again."
)
NO_AUTH_TIME = (
    "The provider did not say when you signed in there. Your identity was not confirmed. "
    "Confirm it another way, or ask your administrator to look at OIDC_WITHOUT_AUTH_TIME."
)
ADDRESS_TAKEN = (
    "Single sign-on has a new email for you, but another account here has it. The panel keeps your old one. "
    "Ask your administrator to change the other account."
)
NOT_AGAIN = (
    "The provider did not ask you to sign in again. Your identity was not confirmed. "
    "Sign out at the provider, then try again."
)


class SsoAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """One provider, from the environment. Nothing in the database can add another."""

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
        """For allauth's own request, which exchanges a code for tokens."""
        return session()

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Called after allauth looked up the account of this issuer and subject. We decide everything after that."""
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
        # allauth passes `state_id` if it found no state with this id.
        unasked = TOO_LATE if "state_id" in (extra_context or {}) else BAD_ANSWER
        sentence = GIVEN_UP if error == "cancelled" else unasked
        raise ImmediateHttpResponse(refuse(request, sentence, why="single sign-on"))


def profile_of(claims: dict[str, Any]) -> SsoProfile:
    email, name = claims.get("email"), claims.get("name")
    return SsoProfile(
        provider=provider(),
        subject=str(claims["sub"]),
        email=email if isinstance(email, str) else "",
        is_verified=claims.get("email_verified") is True,
        name=name if isinstance(name, str) else "",
        groups=read_groups(claims.get(provider().groups_claim)),
    )


def _arrived(request: HttpRequest, login: SocialLogin, profile: SsoProfile) -> HttpResponse | None:
    """Finish what the person was sent to the provider for. None lets allauth sign them in."""
    state = login.state
    state["auth_time"] = _auth_time(login.claims)
    state["second_factor"] = bool(SECOND_FACTORS & set(map(str, login.claims.get("amr") or [])))
    if state["process"] == CONFIRM:
        return _confirmed(request, login, profile)
    if state["process"] == CONNECT:
        return _connected(request, profile)
    account: SocialAccount = login.account
    if not login.is_existing:
        account = login.account = sso_accounts.create_sso_person(profile, by=actor_of(request))
        login.user = account.user
    _follow(request, account.user, profile)
    return None


def _follow(request: HttpRequest, person: User, profile: SsoProfile) -> None:
    """Take over name, address and groups, because the provider has just confirmed the person."""
    if person.is_active and not sso_accounts.follow(person, profile, by=actor_of(request)):
        messages.warning(request, ADDRESS_TAKEN)


def _auth_time(claims: dict[str, Any]) -> float:
    """Seconds since 1970; 0 if the provider sends none. Raises UserError for an impossible value.

    OpenID Connect Core 2: a JSON number. A time in the future would count as recent until it is past.
    """
    sent = claims.get("auth_time")
    if sent is None:
        return 0.0
    if isinstance(sent, bool) or not isinstance(sent, int | float) or not 0 < sent <= time.time() + SKEW:
        raise UserError(BAD_ANSWER)
    return float(sent)


def _confirmed(request: HttpRequest, login: SocialLogin, profile: SsoProfile) -> HttpResponse:
    if not isinstance(request.user, User) or not login.is_existing or login.user.pk != request.user.pk:
        return refuse(request, OTHER_PERSON, why="other person")
    at = login.state["auth_time"]
    if not at and provider().sends_auth_time:
        return refuse(request, NO_AUTH_TIME, why="no auth_time")
    if at and at < login.state["asked_at"] - SKEW:
        return refuse(request, NOT_AGAIN, why="not signed in again")
    shown = {"auth_time": at or time.time(), "second_factor": login.state["second_factor"], "reauthenticated": True}
    record_authentication(request, request.user, "socialaccount", **shown)
    _follow(request, request.user, profile)
    return redirect(login.state.get("next") or "home")


def _connected(request: HttpRequest, profile: SsoProfile) -> HttpResponse:
    if not isinstance(request.user, User):
        return refuse(request, OTHER_PERSON, why="other person")
    sso_accounts.connect(request.user, profile, by=actor_of(request))
    _follow(request, request.user, profile)
    messages.success(request, "Single sign-on connected. You can now sign in with it.")
    return redirect("profile")


def word_for(error: Exception | None) -> str:
    """A word for the log, never part of what the provider sent."""
    return str(error) if isinstance(error, AnswerRefused) else type(error).__name__


def refuse(request: HttpRequest, sentence: str, *, why: str) -> HttpResponse:
    audit.record_failed_sign_in("", "failed", why=why, by=actor_of(request))
    return error_page(request, 403, "Not signed in", sentence)


def note_signed_in(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Record the provider's statements after sign-in, possibly after one of the panel's own second factors."""
    state = sociallogin.state
    recent_auth.note_sso(request, auth_time=state.get("auth_time", 0), second_factor=state.get("second_factor", False))
