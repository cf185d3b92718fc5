"""allauth's checks of a second factor, as this house wants them: secrets bound to their person, no code good twice,
and each wrong one in the log.
"""

import json
from typing import Any

from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.base.views import AuthenticateView, ReauthenticateView
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn.forms import (
    AddWebAuthnForm,
    AuthenticateWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from allauth.mfa.webauthn.views import LoginWebAuthnView, ReauthenticateWebAuthnView
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.forms import CharField, Form
from django.http import HttpRequest, HttpResponse

from taskruns.access.gate import actor_of, anyone, first_factor_enough
from taskruns.allauth_compat import normalize_user_code, parse_authentication_response
from taskruns.encryption import DecryptionFailed
from taskruns.models import User
from taskruns.services import audit
from taskruns.services.people import factors

# A code is good for its own step of 30 s and the ones beside it.
CODE_LIVES_FOR = 30 * (2 * settings.MFA_TOTP_TOLERANCE + 1)
UNREADABLE = (
    "Your second factor cannot be read with the ENCRYPTION_KEYS of this deployment. Ask whoever runs the panel to put "
    "the missing ring key back, or to reset your sign-in."
)
NAME_HELP = "How you tell it from others, like “Laptop” or “Blue key”."
ALONE_HELP = "Without e-mail and password: the device itself then asks for a PIN, a finger or a face."
COPIED = "This passkey has counted its uses wrongly: there may be a copy of it. Sign in another way and remove it."
THROTTLED = "too_many_login_attempts"


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        return factors.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        return factors.decrypt(encrypted_text)

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """A passkey belongs to SITE_URL's host, whatever a request calls it."""
        return {"id": settings.SITE.host, "name": "Taskruns"}


def use_up(person: User, code: str) -> bool:
    """False if this person has used this code before: somebody may have looked over their shoulder."""
    digits = normalize_user_code(code)  # as the check reads it: without blanks and dashes
    return bool(cache.add(f"taskruns.totp.used:{person.pk}:{digits}", True, timeout=CODE_LIVES_FOR))


class _CheckedCode:
    """Around allauth's check of a code: its secret is bound to the person, and a wrong or used code is recorded."""

    user: User
    authenticator: Authenticator
    cleaned_data: dict[str, Any]

    def clean_code(self) -> str:
        try:
            with factors.bound_to(self.user):
                code: str = super().clean_code()  # type: ignore[misc]
        except DecryptionFailed:
            raise ValidationError(UNREADABLE, code="unreadable") from None
        except ValidationError as refused:
            _record_refused(context.request, self.user, "throttled" if refused.code == THROTTLED else "failed")
            raise
        if self.authenticator.type == Authenticator.Type.TOTP and not use_up(self.user, code):
            _record_refused(context.request, self.user, "failed", why="code used before")
            raise ValidationError("This code was used before. Wait for the next one.", code="used")
        return code


class CodeForm(_CheckedCode, AuthenticateForm):  # type: ignore[misc]
    """When signing in."""


class ConfirmCodeForm(_CheckedCode, ReauthenticateForm):  # type: ignore[misc]
    """When confirming who it is."""


class _ReadPasskey:
    """Around allauth's reading of what a browser says a passkey answered: nonsense is a wrong answer, not an error."""

    def _read(self, method: str) -> Any:
        try:
            return getattr(super(), method)()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValidationError("The passkey's answer cannot be used. Please try again.", code="nonsense") from error


class PasskeyForm(_ReadPasskey, AddWebAuthnForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"] = CharField(max_length=factors.LONGEST_NAME, required=False, help_text=NAME_HELP)
        self.initial["name"] = ""
        self.fields["passwordless"].label = "Sign in with it alone"
        self.fields["passwordless"].help_text = ALONE_HELP

    def clean(self) -> Any:
        return self._read("clean")


class _CountedPasskey(_ReadPasskey):
    """A copy of a passkey answers as well as the passkey does; the count in its answers tells them apart."""

    cleaned_data: dict[str, Any]

    def clean_credential(self) -> Any:
        answer = self.cleaned_data["credential"]
        factor = self._read("clean_credential")
        if not factors.count_use(factor, parse_authentication_response(answer).response.authenticator_data.counter):
            raise ValidationError(COPIED, code="copied")
        return factor


class PasskeyStepForm(_CountedPasskey, AuthenticateWebAuthnForm):  # type: ignore[misc]
    """When signing in, after a password."""


class PasskeyLoginForm(_CountedPasskey, LoginWebAuthnForm):  # type: ignore[misc]
    """When signing in, without one."""


class ConfirmPasskeyForm(_CountedPasskey, ReauthenticateWebAuthnForm):  # type: ignore[misc]
    """When confirming who it is."""


def _record_refused(request: HttpRequest, person: User, outcome: str, *, why: str = "second factor") -> None:
    audit.record_failed_sign_in(person.email, outcome, why=why, by=actor_of(request))


class _Authenticate(AuthenticateView):  # type: ignore[misc]
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return _with_options(super().get_context_data(**kwargs))

    def form_invalid(self, form: Form) -> HttpResponse:
        if "credential" in form.errors:
            _record_refused(self.request, self.stage.login.user, _outcome(form), why=_why(form))
        response: HttpResponse = super().form_invalid(form)
        return response


class _PasskeyLogin(LoginWebAuthnView):  # type: ignore[misc]
    def form_invalid(self, form: Form) -> HttpResponse:
        audit.record_failed_sign_in("", "failed", why=_why(form), by=actor_of(self.request))
        response: HttpResponse = super().form_invalid(form)
        return response


class _ConfirmByPasskey(ReauthenticateWebAuthnView):  # type: ignore[misc]
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return _with_options(super().get_context_data(**kwargs) | kwargs)

    def form_invalid(self, form: Form) -> HttpResponse:
        _record_refused(self.request, self.request.user, _outcome(form), why=_why(form))
        page: HttpResponse = self.render_to_response(self.get_context_data(form=form))
        return page


def _with_options(context: dict[str, Any]) -> dict[str, Any]:
    """What the browser asks the key, as text for a data attribute: the policy allows no inline script."""
    return context | {"options": json.dumps(context["js_data"]["request_options"])}


def _outcome(form: Form) -> str:
    return "throttled" if form.has_error("credential", THROTTLED) else "failed"


def _why(form: Form) -> str:
    return "passkey used by a copy" if form.has_error("credential", "copied") else "passkey"


def confirmed(sender: Any, request: HttpRequest, user: User, **how: Any) -> None:
    """Allauth signals each step that was shown. Signing in itself is recorded once all of them are."""
    if how.get("reauthenticated"):
        audit.record_sign_in(user, again=True, by=actor_of(request))


authenticate = anyone(_Authenticate.as_view())
login_by_passkey = anyone(_PasskeyLogin.as_view())
confirm_by_code = first_factor_enough(ReauthenticateView.as_view())
confirm_by_passkey = first_factor_enough(_ConfirmByPasskey.as_view())

__all__ = ["authenticate", "confirm_by_code", "confirm_by_passkey", "confirmed", "login_by_passkey"]
