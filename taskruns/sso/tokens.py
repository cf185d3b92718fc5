"""Check an ID token: signed by the issuer, for this panel, for this sign-in, and not expired."""

import hmac
from typing import Any

import jwt

# Asymmetric only: a token signed with the client's own secret, or unsigned, does not prove that the issuer made it.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY = 30  # seconds of clock skew
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nonce"]


class TokenRefused(Exception):
    """`reason` is a word for the log, never part of the token."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def read_id_token(token: str, *, keys: dict[str, Any], issuer: str, client_id: str, nonce: str) -> dict[str, Any]:
    """The claims. `keys` is the issuer's JSON Web Key Set. Raises TokenRefused (OpenID Connect Core, 3.1.3.7)."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key=_key(keys, jwt.get_unverified_header(token)),
            algorithms=list(ALGORITHMS),
            issuer=issuer,
            audience=client_id,
            leeway=LEEWAY,
            options={"require": _REQUIRED},
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise TokenRefused(type(error).__name__) from error
    if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
        raise TokenRefused("nonce")
    parties = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if claims.get("azp", client_id) != client_id or (len(parties) > 1 and "azp" not in claims):
        raise TokenRefused("azp")
    if not isinstance(claims["sub"], str) or not claims["sub"]:
        raise TokenRefused("sub")
    return claims


def _key(keys: dict[str, Any], header: dict[str, Any]) -> Any:
    known = jwt.PyJWKSet.from_dict(keys).keys
    wanted = [key for key in known if key.key_id == header.get("kid")] if "kid" in header else known
    if len(wanted) != 1:
        raise TokenRefused("kid")
    return wanted[0].key
