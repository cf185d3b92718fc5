"""OpenID Connect: requests to the provider, and the checks of its answers.

allauth does not check the signature of an ID token from the token endpoint, and accepts any issuer that the discovery
document names. Here the issuer must be OIDC_ISSUER, and every token is verified.
"""

import json
import secrets
import time
from dataclasses import replace
from typing import Any

from allauth.socialaccount.models import SocialApp, SocialLogin, SocialToken
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse

from taskruns.access import recent_auth
from taskruns.outbound import Bearer, Egress, NotAnswered, Session, Timeouts
from taskruns.services.people import sso_accounts
from taskruns.sso import Provider, TokenRefused, read_id_token

# The administrator chooses the issuer, so a private address is allowed.
EGRESS = Egress(Timeouts(connect=5, read=5))
NEEDED = ("authorization_endpoint", "token_endpoint", "jwks_uri")
# Claims that prove something about this sign-in: they must be signed.
OF_THE_SIGN_IN = {"auth_time", "amr", "acr"}
# Why a person is sent to the provider.
LOGIN, CONNECT, CONFIRM = "login", "connect", "again"


def provider() -> Provider:
    """Raises Http404 if this deployment has none."""
    found: Provider | None = settings.OIDC
    if found is None:
        raise Http404
    return found


class AnswerRefused(OAuth2Error):  # type: ignore[misc]
    """The text is our own word for the log, never part of the answer."""


class OidcAdapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    """`state` was stored when the person left for the provider, and contains the nonce."""

    state: dict[str, Any]

    @property
    def openid_config(self) -> dict[str, Any]:
        if not hasattr(self, "_openid_config"):
            self._openid_config = self._discover()
        return self._openid_config

    def _discover(self) -> dict[str, Any]:
        found = _fetched(provider().discovery_url)
        if found.get("issuer") != provider().issuer:
            raise AnswerRefused("issuer of the discovery document")
        used = [found.get(name) for name in NEEDED] + [found[name] for name in ("userinfo_endpoint",) if name in found]
        if not all(provider().accepts(url) for url in used):
            raise AnswerRefused("endpoints of the discovery document")
        return found

    def parse_token(self, data: dict[str, Any]) -> SocialToken:
        """The access token. It is used for one request and never stored."""
        return SocialToken(token=str(data["access_token"]))

    def complete_login(self, request: HttpRequest, app: SocialApp, token: SocialToken, **kwargs: Any) -> SocialLogin:
        claims = self._claims(kwargs["response"])
        if "userinfo_endpoint" in self.openid_config:
            info = _fetched(self.openid_config["userinfo_endpoint"], bearer=token.token)
            if info.get("sub") != claims["sub"]:
                raise AnswerRefused("subject of the user info")
            # Signed claims override those from the userinfo endpoint, which says nothing about the sign-in itself.
            claims = {name: info[name] for name in info.keys() - OF_THE_SIGN_IN} | claims | _address(claims, info)
        return self.get_provider().sociallogin_from_response(request, claims)

    def _claims(self, answer: dict[str, Any]) -> dict[str, Any]:
        keys = _fetched(self.openid_config["jwks_uri"])
        nonce = str(self.state.get("nonce", ""))
        if not nonce:
            raise AnswerRefused("nonce")
        mine = provider()
        try:
            return read_id_token(
                str(answer.get("id_token", "")), keys=keys, issuer=mine.issuer, client_id=mine.client_id, nonce=nonce
            )
        except TokenRefused as refused:
            raise AnswerRefused(refused.reason) from refused

    def get_callback_url(self, request: HttpRequest, app: SocialApp) -> str:
        return str(settings.SITE_URL) + reverse("sso-callback")


def session(bearer: str = "") -> Session:
    """HTTP session to the provider, without retries: a code or a token may work only once."""
    return Session(replace(EGRESS, network=settings.NETWORK), auth=Bearer(bearer) if bearer else None)


def _fetched(url: str, *, bearer: str = "") -> dict[str, Any]:
    """Fetch a JSON object from the provider. Raises AnswerRefused."""
    with session(bearer) as opened:
        answer = opened.ask("GET", url)
    if isinstance(answer, NotAnswered):
        raise AnswerRefused(answer.why.name.lower().replace("_", " "))
    if answer.status != 200:
        raise AnswerRefused(f"status {answer.status}")
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise AnswerRefused("no JSON") from None
    if not isinstance(found, dict):
        raise AnswerRefused("no JSON object")
    return found


def _address(claims: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The email and whether it is verified, both from one source: only the address that it names is verified. From the
    ID token, unless it has none, or leaves it to the user info whether the same one is verified.
    """
    leaves_it = "email_verified" not in claims and claims.get("email") == info.get("email")
    source = info if "email" not in claims or leaves_it else claims
    return {name: source.get(name) for name in ("email", "email_verified")}


class OidcProvider(OpenIDConnectProvider):  # type: ignore[misc]
    """Nothing from the visitor's own query string is passed on to the provider."""

    oauth2_adapter_class = OidcAdapter

    def redirect(self, request: HttpRequest, process: str, next_url: str | None = None, **_: Any) -> HttpResponse:
        nonce = secrets.token_urlsafe(24)
        params = {"nonce": nonce}
        if process == CONFIRM:
            # `max_age` makes the provider send `auth_time`, which proves that it asked the person to sign in.
            params |= {"prompt": "login", "max_age": str(recent_auth.RECENT_FOR)}
        kept = {"nonce": nonce, "asked_at": time.time()}
        answer: HttpResponse = super().redirect(
            request, process, next_url, auth_params=params, scope=list(provider().scopes), **kept
        )
        return answer

    def extract_uid(self, data: dict[str, Any]) -> str:
        """Raises UserError for one that cannot be stored; allauth would only raise a configuration error."""
        return sso_accounts.checked_subject(str(data["sub"]))

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """Store nothing of what the provider says about the person."""
        return {}

    def extract_common_fields(self, data: dict[str, Any]) -> dict[str, Any]:
        return {}

    def extract_email_addresses(self, data: dict[str, Any]) -> list[Any]:
        return []

    def sociallogin_from_response(self, request: HttpRequest, response: dict[str, Any]) -> SocialLogin:
        login = super().sociallogin_from_response(request, response)
        login.claims = response
        return login
