"""How allauth behaves in this house, and what of it goes into the audit log."""

from typing import Any

from allauth.account import signals as account_signals
from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.views import PasswordChangeView
from django.contrib.auth import signals as auth_signals
from django.core.exceptions import ValidationError
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse

from taskruns.audit import EventType
from taskruns.models import User
from taskruns.services import audit

from .access import actor_of, record_denied


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest) -> bool:  # noqa: ARG002 - allauth's signature
        """People come in by a command or an invitation, never by themselves."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The throttle counts by the same address that the audit log shows."""
        return str(getattr(request, "client_ip", ""))

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """A throttled try sends no signal, so it is recorded where it is refused."""
        try:
            super().pre_authenticate(request, **credentials)
        except ValidationError:
            login = str(credentials.get("email", ""))
            audit.record_failed_sign_in(login, "throttled", by=actor_of(request))
            raise


class PasswordChange(PasswordChangeView):  # type: ignore[misc]
    def form_invalid(self, form: Any) -> HttpResponse:
        """A wrong current password is a try to take an account that was left open."""
        if "oldpassword" in form.errors:
            record_denied(self.request, EventType.AUTH_PASSWORD_CHANGE, why="wrong current password")
        response: HttpResponse = super().form_invalid(form)
        return response


def signed_in(request: HttpRequest, user: User, **_kwargs: Any) -> None:
    """No row, no sign-in: the session that was just made is thrown away again."""
    try:
        audit.record_sign_in(user, by=actor_of(request))
    except DatabaseError:
        request.session.flush()
        raise


def signed_out(request: HttpRequest, user: User | None, **_kwargs: Any) -> None:
    if user is not None:
        audit.record_sign_out(user, by=actor_of(request))


def sign_in_failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_kwargs: Any) -> None:
    if request is not None:
        login = str(credentials.get("email") or credentials.get("username") or "")
        audit.record_failed_sign_in(login, "failed", by=actor_of(request))


def password_changed(request: HttpRequest, user: User, **_kwargs: Any) -> None:
    audit.record_password_change(user, by=actor_of(request))


def connect() -> None:
    """Called once, when the app is ready."""
    account_signals.user_logged_in.connect(signed_in, dispatch_uid="taskruns")
    account_signals.password_changed.connect(password_changed, dispatch_uid="taskruns")
    auth_signals.user_logged_out.connect(signed_out, dispatch_uid="taskruns")
    auth_signals.user_login_failed.connect(sign_in_failed, dispatch_uid="taskruns")
