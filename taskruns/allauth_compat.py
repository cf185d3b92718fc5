"""The parts of django-allauth's `internal` packages that the panel needs.

allauth may move or change them in any release without a changelog entry. So this is the only file that imports them (a
test enforces it): review this list after each update of allauth. It is below the services, because they use it too.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from allauth.account.internal.flows.login import record_authentication
from allauth.account.internal.stagekit import clear_login
from allauth.core.internal import ratelimit
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, clear_totp_secret
from allauth.mfa.webauthn.internal.auth import STATE_SESSION_KEY as PASSKEY_STATE
from allauth.mfa.webauthn.internal.auth import WebAuthn, begin_registration, parse_authentication_response
from allauth.socialaccount.internal.statekit import STATES_SESSION_KEY as SSO_STATES

__all__ = [
    "PASSKEY_STATE",
    "SSO_STATES",
    "TOTP",
    "RecoveryCodes",
    "WebAuthn",
    "begin_registration",
    "clear_login",
    "clear_totp_secret",
    "normalize_user_code",
    "parse_authentication_response",
    "record_authentication",
    "replace_count_lock",
]


def replace_count_lock(lock: Callable[[str], AbstractContextManager[bool]]) -> None:
    """Use `lock` around each change of a throttle's count, instead of allauth's own, which sleeps."""
    ratelimit.cache_lock = lock
