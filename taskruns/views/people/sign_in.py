"""How allauth is adapted for the panel, and which of its events go into the audit log."""

from datetime import timedelta
from typing import Any

from allauth.account import signals as account_signals
from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.forms import ChangePasswordForm as AllauthChangePasswordForm
from allauth.account.forms import LoginForm as AllauthLoginForm
from allauth.account.forms import ReauthenticateForm as AllauthReauthenticateForm
from allauth.account.views import PasswordChangeView
from allauth.core import ratelimit
from allauth.core.exceptions import ImmediateHttpResponse
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import signals as auth_signals
from django.core.exceptions import ValidationError
from django.db import DatabaseError
from django.forms import Field
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.crypto import constant_time_compare
from django.views.decorators.debug import sensitive_variables

from taskruns import jobs
from taskruns.access import recent_auth
from taskruns.access.denials import record_denied
from taskruns.access.gate import actor_of
from taskruns.allauth_compat import clear_login
from taskruns.audit import EventType
from taskruns.models import User
from taskruns.services import audit
from taskruns.services.people import accounts, factors, sessions, sign_in_limits, sso_accounts
from taskruns.services.people.sign_in_limits import Attempt, TooManyAttempts
from taskruns.views.sso.sign_in import note_signed_in

from . import known_browsers
from .factor_checks import confirmed

_HASH_AT_START = "signing_in_as"  # name in the session, from the password to the last step
GUESSED = (
    "Someone tried many wrong passwords for your account, last at {at:%H:%M} UTC on {at:%d %B}. They did not get in. "
    "If your password could be guessed, change it."
)
NO_ADDRESS = "::"  # for clients without an address, for example behind a Unix socket


class LoginForm(AllauthLoginForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The page itself explains what to do about a forgotten password.
        self.fields["password"].help_text = ""
        self.fields["login"].widget.attrs["autofocus"] = True


class ChangePasswordForm(AllauthChangePasswordForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _offer_no_mail(self.fields["oldpassword"])


class ReauthenticateForm(AllauthReauthenticateForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _offer_no_mail(self.fields["password"])
        self.fields["password"].widget.attrs["autofocus"] = True


def _offer_no_mail(password: Field) -> None:
    """Remove allauth's link to the password reset, unless the panel can send mail."""
    if not settings.MAILS:
        password.help_text = ""


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    _attempt: Attempt

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Accounts are created by a command, an invitation or single sign-on, never by sign-up."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """What the throttles count by: the address that the audit log shows, or for IPv6 its /64."""
        return sign_in_limits.network(str(getattr(request, "client_ip", "") or NO_ADDRESS))

    def is_reauthentication_required(self, *, app: str, **_kwargs: Any) -> bool:
        """Only the gate (`access/gate.py`) decides: allauth would store the POST data in the session, even a key."""
        return False

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """The confirmation methods that count for this person. The first one is the default."""
        if not isinstance(user, User):
            return []
        methods: list[dict[str, Any]] = super().get_reauthentication_methods(user)
        if not accounts.password_works(user):
            methods = [method for method in methods if method["id"] != "reauthenticate"]
        if factors.has_second(user):
            strong = [method for method in methods if method["id"].startswith("mfa_reauthenticate")]
            has_app = factors.of(user).filter(type="totp").exists()
            # Without an app, codes are only recovery codes: put passkeys first.
            return strong if has_app else strong[::-1]
        if settings.OIDC and sso_accounts.account_of(user, settings.OIDC):
            methods.append({"id": "sso", "description": "Use single sign-on", "url": reverse("sso-again")})
        return methods

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """With SSO_ONLY, the right password gets the same answer as a wrong one."""
        person: User | None = super().authenticate(request, **credentials)
        if person is None or accounts.password_works(person):
            return person
        audit.record_failed_sign_in(person.email, "failed", why="single sign-on only", by=actor_of(request))
        return None

    def pre_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponse | None:
        """After the first step: remember the account's state, which `login` compares. Record the sign-in to a disabled
        account by single sign-on or a passkey, for which allauth sends no signal.
        """
        refused: HttpResponse | None = super().pre_login(request, user, **kwargs)
        if refused is None:
            request.session[_HASH_AT_START] = user.get_session_auth_hash()
        else:
            audit.record_failed_sign_in(user.email, "failed", why="account disabled", by=actor_of(request))
        return refused

    def login(self, request: HttpRequest, user: User) -> None:
        """After the last step: refuse if the password was reset or the account disabled since the first one."""
        hash_at_start = str(request.session.pop(_HASH_AT_START, ""))
        if not user.is_active or not constant_time_compare(hash_at_start, user.get_session_auth_hash()):
            clear_login(request)
            audit.record_failed_sign_in(user.email, "failed", why="account changed", by=actor_of(request))
            raise ImmediateHttpResponse(redirect("account_login"))
        super().login(request, user)

    @sensitive_variables("password")
    def set_password(self, user: User, password: str) -> None:
        """Not as allauth does, which also writes back the columns that a site admin has just changed."""
        accounts.set_own_password(user, password=password)

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count the attempt. Record throttled ones here, because they send no signal."""
        login = str(credentials.get("email") or "")
        browser = _browser(request, login)
        if not browser and not ratelimit.consume(request, action="login_from_stranger"):
            raise ImmediateHttpResponse(ratelimit.respond_429(request))
        try:
            self._attempt = sign_in_limits.begin(login, address=self.get_client_ip(request), browser=browser)
        except TooManyAttempts as refused:
            audit.record_failed_sign_in(login, "throttled", by=actor_of(request))
            if refused.is_new:
                jobs.wake_guess_report(login)
            raise ValidationError(too_many(refused), code="too_many_login_attempts") from None

    def _rollback_login_failed_rl_usage(self) -> None:
        """Called by allauth after the right password. Only wrong ones count."""
        self._attempt.forgive()


class PasswordChange(PasswordChangeView):  # type: ignore[misc]
    def form_invalid(self, form: Any) -> HttpResponse:
        """Record a wrong current password: it may be an attempt to take over an open session."""
        if "oldpassword" in form.errors:
            event = EventType.AUTH_PASSWORD_CHANGE
            record_denied(self.request, event, by=actor_of(self.request), why="wrong current password")
        response: HttpResponse = super().form_invalid(form)
        return response

    def form_valid(self, form: Any) -> HttpResponse:
        """Renew the cookie of the known browser, because it is bound to the password."""
        try:
            response: HttpResponse = super().form_valid(form)
        except accounts.AccountChanged as changed:
            return back_to_form(self.request, changed)
        known_browsers.remember(self.request, response, self.request.user)
        return response


def back_to_form(request: HttpRequest, changed: accounts.AccountChanged) -> HttpResponse:
    """Back to the form: it asks an ended session to sign in, and says that a void link is no longer valid."""
    record_denied(request, EventType.AUTH_PASSWORD_CHANGE, by=actor_of(request), why="account changed")
    messages.error(request, changed.sentence)
    return redirect(request.path)


def too_many(refused: TooManyAttempts) -> str:
    """The same sentence whether the account exists or not. Rounded up: an attempt before that time is refused again."""
    at = refused.until + timedelta(minutes=1) - timedelta(microseconds=1)
    if not refused.is_of_account:
        return f"Too many sign-in attempts from your network. Try again at {at:%H:%M} UTC."
    return (
        f"Too many sign-in attempts for this account. Try again at {at:%H:%M} UTC, "
        "or use a browser in which you have signed in before."
    )


def _browser(request: HttpRequest, login: str) -> str:
    """The name of a known browser, or empty. A session in which its person confirms their identity counts as one."""
    if isinstance(request.user, User) and request.user.email == login:
        return f"session of {request.user.pk}"
    return known_browsers.known_browser(request, login)


def session_began(request: HttpRequest | None, **_kwargs: Any) -> None:
    if request is not None:
        recent_auth.begin(request)


def signed_in(
    request: HttpRequest, user: User, response: HttpResponse, sociallogin: Any = None, **_kwargs: Any
) -> None:
    """Record the sign-in. If that fails, discard the new session: no row, no sign-in."""
    if sociallogin is not None:
        note_signed_in(request, sociallogin)
    try:
        audit.record_sign_in(user, by=actor_of(request))
        sessions.end_surplus(user, by=actor_of(request))
    except DatabaseError:
        request.session.flush()
        raise
    known_browsers.remember(request, response, user)
    if (at := sign_in_limits.show_guesses(user)) is not None:
        messages.warning(request, GUESSED.format(at=at))


def signed_out(request: HttpRequest, user: User | None, **_kwargs: Any) -> None:
    if user is not None:
        audit.record_sign_out(user, by=actor_of(request))


def sign_in_failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_kwargs: Any) -> None:
    if request is not None:
        login = str(credentials.get("email") or credentials.get("username") or "")
        audit.record_failed_sign_in(login, "failed", by=actor_of(request))


def password_changed(request: HttpRequest, user: User, **_kwargs: Any) -> None:
    accounts.password_changed(user, session_key=request.session.session_key or "", by=actor_of(request))


def password_reset(request: HttpRequest, user: User, **_kwargs: Any) -> None:
    """The link came by mail, so it verifies the address."""
    password_changed(request, user)
    accounts.verify_email(user, by=actor_of(request))


def connect_signals() -> None:
    """Called once, when the app is ready."""
    account_signals.user_logged_in.connect(signed_in, dispatch_uid="taskruns")
    account_signals.password_changed.connect(password_changed, dispatch_uid="taskruns")
    account_signals.password_reset.connect(password_reset, dispatch_uid="taskruns")
    account_signals.authentication_step_completed.connect(confirmed, dispatch_uid="taskruns")
    auth_signals.user_logged_in.connect(session_began, dispatch_uid="taskruns")
    auth_signals.user_logged_out.connect(signed_out, dispatch_uid="taskruns")
    auth_signals.user_login_failed.connect(sign_in_failed, dispatch_uid="taskruns")
