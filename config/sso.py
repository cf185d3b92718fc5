"""OIDC_*: the identity provider of a deployment, if it has one."""

import re
from urllib.parse import urlsplit

from taskruns.sso import GroupRole, Provider
from taskruns.sso.provider import ROLES

from . import environment as env

_SCOPES = "openid profile email"
_SCOPE = re.compile(r"[!#-\[\]-~]{1,200}")  # RFC 6749, 3.3
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")


def provider() -> Provider | None:
    """None without OIDC_ISSUER."""
    issuer = env.text("OIDC_ISSUER", "")
    if not issuer:
        return None
    with env.checked("OIDC_ISSUER", "must be the issuer's https URL, exactly as in the provider's documentation."):
        _check_issuer(issuer)
    return Provider(
        issuer=issuer,
        client_id=_required("OIDC_CLIENT_ID"),
        client_secret=_required("OIDC_CLIENT_SECRET"),
        groups_claim=env.text("OIDC_GROUPS_CLAIM", "groups"),
        group_roles=group_roles(),
        scopes=scopes(),
        sends_auth_time=not env.boolean("OIDC_WITHOUT_AUTH_TIME", default=False),
        sign_in_origins=_sign_in_origins(issuer),
    )


def only(provider: Provider | None) -> bool:
    """SSO_ONLY: people sign in at the provider only, without password or passkey. Refused if there is no provider."""
    switched_on = env.boolean("SSO_ONLY", default=False)
    if switched_on and provider is None:
        env.refuse("SSO_ONLY", "is on, but there is no single sign-on. Set OIDC_ISSUER, or turn it off.")
    return switched_on


def scopes() -> tuple[str, ...]:
    """Separated by spaces, as providers document them, or by commas."""
    with env.checked("OIDC_SCOPES", "must be scope names with `openid` among them, for example `openid email groups`."):
        found = tuple(dict.fromkeys(env.text("OIDC_SCOPES", _SCOPES).replace(",", " ").split()))
        if "openid" not in found or not all(map(_SCOPE.fullmatch, found)):
            raise ValueError
    return found


def _check_issuer(issuer: str) -> None:
    """Raises ValueError. Does not normalise the issuer: a trailing slash is part of its name."""
    parts = urlsplit(issuer)
    host, _ = parts.hostname, parts.port  # reading the port checks it
    loopback = host in {"localhost", "127.0.0.1", "::1"}
    is_clean = host and not (parts.query or parts.fragment or parts.username) and issuer.isascii() and " " not in issuer
    if not is_clean or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError


def _required(name: str) -> str:
    return env.text(name, "") or env.refuse(name, "is not set. Single sign-on needs it, because OIDC_ISSUER is set.")


def group_roles() -> tuple[GroupRole, ...]:
    """Parse `group=team-slug:role` entries, separated by commas."""
    with env.checked("OIDC_GROUP_ROLES", "must look like `group=team-slug:operator`, separated by commas."):
        return tuple(_group_role(part) for part in env.parts("OIDC_GROUP_ROLES"))


def _group_role(part: str) -> GroupRole:
    group, _, given = part.rpartition("=")
    team, _, role = given.partition(":")
    if not (group and team and role in ROLES):
        raise ValueError
    return GroupRole(group.strip(), team.strip(), role)


def _sign_in_origins(issuer: str) -> tuple[str, ...]:
    """More origins of the provider's pages, for the CSP: browsers follow a form's redirect only to allowed origins."""
    schemes = {"https", urlsplit(issuer).scheme}
    with env.checked("OIDC_SIGN_IN_ORIGINS", "must be https://host, optionally with a port, separated by commas."):
        origins = tuple(part.rstrip("/") for part in env.parts("OIDC_SIGN_IN_ORIGINS"))
        if not all(_ORIGIN.fullmatch(origin) and origin.partition(":")[0] in schemes for origin in origins):
            raise ValueError
    return origins
