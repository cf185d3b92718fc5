"""allauth's checks of a second factor, made stricter: secrets are bound to their person, a code works once, and each
failure is recorded.
"""

import json
from functools import wraps
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
from django.contrib import messages
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.forms import CharField, Field, Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase

from taskruns.access.gate import View, actor_of, anyone, first_factor_enough
from taskruns.allauth_compat import PASSKEY_STATE, normalize_user_code, parse_authentication_response
from taskruns.encryption import DecryptionFailed
from taskruns.models import User
from taskruns.services import audit
from taskruns.services.people import factors, throttles

# A code is valid for its own 30 s step and the adjacent ones.
CODE_LIVES_FOR = 30 * (2 * settings.MFA_TOTP_TOLERANCE + 1)
UNREADABLE = (
    "Your second factor cannot be decrypted with this deployment's ENCRYPTION_KEYS. It cannot be checked. Ask your "
    "administrator to restore the missing encryption key or to reset your sign-in."
)
NAME_HELP = "A name to recognise it by, for example “Laptop” or “Blue key”."
ALONE_HELP = "No email or password needed: the device asks for a PIN, a fingerprint or your face instead."
COPIED = "This passkey reported a wrong use count. Someone may have a copy of it. Sign in another way and remove it."
EXPIRED = "This took longer than 5 minutes, or your browser kept no cookie. Nothing was changed. Start again."
USED = "This passkey answer was already used. Start again."
THROTTLED = "too_many_login_attempts"


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        return factors.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        return factors.decrypt(encrypted_text)

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """A passkey belongs to the host of SITE_URL, whatever host a request names."""
        return {"id": settings.SITE.host, "name": "Taskruns"}


def use_up(person: User, code: str) -> bool:
    """False if this person has already used this code: someone may have looked over their shoulder."""
    digits = normalize_user_code(code)  # as allauth's check does: without blanks and dashes
    return bool(cache.add(f"taskruns.totp.used:{person.pk}:{digits}", True, timeout=CODE_LIVES_FOR))


class _CheckedCode:
    """Wraps allauth's check of a code: binds the secret to the person, and records a wrong or used code."""

    user: User
    authenticator: Authenticator
    cleaned_data: dict[str, Any]
    fields: dict[str, Field]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["code"].widget.attrs["autofocus"] = True

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
            raise ValidationError("This code was already used. Wait for the next one.", code="used")
        return code


class CodeForm(_CheckedCode, AuthenticateForm):  # type: ignore[misc]
    """Code at sign-in."""


class ConfirmCodeForm(_CheckedCode, ReauthenticateForm):  # type: ignore[misc]
    """Code to confirm one's identity."""


class _ReadPasskey:
    """Wraps allauth's reading of a passkey's answer: malformed data is a wrong answer, not a server error."""

    def _read(self, method: str) -> Any:
        try:
            return getattr(super(), method)()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValidationError("The passkey's answer could not be read. Try again.", code="nonsense") from error


class PasskeyForm(_ReadPasskey, AddWebAuthnForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"] = CharField(max_length=factors.LONGEST_NAME, required=False, help_text=NAME_HELP)
        self.initial["name"] = ""
        self.fields["passwordless"].label = "Sign in with this passkey alone"
        self.fields["passwordless"].help_text = ALONE_HELP

    def clean(self) -> Any:
        return self._read("clean")


class _CountedPasskey(_ReadPasskey):
    """Accepts each answer once, and checks the use count: a copied passkey answers correctly, but with a low count."""

    cleaned_data: dict[str, Any]

    def clean_credential(self) -> Any:
        answer = self.cleaned_data["credential"]
        challenge = context.request.session.get(PASSKEY_STATE, {}).get("challenge", "")
        if not challenge:
            raise ValidationError(EXPIRED, code="expired")
        factor = self._read("clean_credential")
        if not throttles.use_up_challenge(challenge):
            raise ValidationError(USED, code="used")
        if not factors.count_use(factor, parse_authentication_response(answer).response.authenticator_data.counter):
            raise ValidationError(COPIED, code="copied")
        return factor


class PasskeyStepForm(_CountedPasskey, AuthenticateWebAuthnForm):  # type: ignore[misc]
    """Passkey at sign-in, after the password."""


class PasskeyLoginForm(_CountedPasskey, LoginWebAuthnForm):  # type: ignore[misc]
    """Passkey at sign-in, without a password."""


class ConfirmPasskeyForm(_CountedPasskey, ReauthenticateWebAuthnForm):  # type: ignore[misc]
    """Passkey to confirm one's identity."""


def _record_refused(request: HttpRequest, person: User, outcome: str, *, why: str = "second factor") -> None:
    audit.record_failed_sign_in(person.email, outcome, why=why, by=actor_of(request))


class _Authenticate(AuthenticateView):  # type: ignore[misc]
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Explain why: without a first step, allauth only redirects to the sign-in page."""
        response: HttpResponse = super().dispatch(request, *args, **kwargs)
        if request.method == "POST" and not hasattr(request, "_login_stage") and not request.user.is_authenticated:
            messages.error(request, EXPIRED)
        return response

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
    """Add the WebAuthn options as text for a data attribute: the CSP allows no inline script."""
    return context | {"options": json.dumps(context["js_data"]["request_options"])}


def _outcome(form: Form) -> str:
    return "throttled" if form.has_error("credential", THROTTLED) else "failed"


def _why(form: Form) -> str:
    return "passkey used by a copy" if form.has_error("credential", "copied") else "passkey"


def confirmed(sender: Any, request: HttpRequest, user: User, **how: Any) -> None:
    """Record a confirmation. allauth signals each completed step; a sign-in is recorded after all its steps."""
    if how.get("reauthenticated"):
        audit.record_sign_in(user, again=True, by=actor_of(request))


def _unless_sso_only(view: View) -> View:
    """404 with SSO_ONLY: a passkey alone must not sign in. As a second factor after single sign-on it still works."""

    @wraps(view)
    def found(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if settings.SSO_ONLY:
            raise Http404
        return view(request, *args, **kwargs)

    return anyone(found)


authenticate = anyone(_Authenticate.as_view())
login_by_passkey = _unless_sso_only(_PasskeyLogin.as_view())
confirm_by_code = first_factor_enough(ReauthenticateView.as_view())
confirm_by_passkey = first_factor_enough(_ConfirmByPasskey.as_view())

__all__ = ["authenticate", "confirm_by_code", "confirm_by_passkey", "confirmed", "login_by_passkey"]
