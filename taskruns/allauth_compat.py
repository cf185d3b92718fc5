"""The parts of django-allauth that it keeps in `internal` packages and the panel cannot do without.

allauth may move or change them in any release, without a word in its changelog. So this is the only file that imports
them (a test refuses any other): after an update of allauth, read this list again. It stands below the services because
those use it as well as the gate and the views: making a factor is a service's work, a record of a sign-in the gate's.
"""

from allauth.account.internal.flows.login import record_authentication
from allauth.account.internal.stagekit import clear_login
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, clear_totp_secret
from allauth.mfa.webauthn.internal.auth import WebAuthn, begin_registration, parse_authentication_response

__all__ = [
    "TOTP",
    "RecoveryCodes",
    "WebAuthn",
    "begin_registration",
    "clear_login",
    "clear_totp_secret",
    "normalize_user_code",
    "parse_authentication_response",
    "record_authentication",
]
