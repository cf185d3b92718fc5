"""Password reset by email, only where the panel can send mail.

A reset ends every session of the person, keeps second factors, and does not sign in. It is not available to people
without a password, or with SSO_ONLY.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.account import views as account
from allauth.account.forms import ResetPasswordForm, UserTokenForm
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase

from taskruns import jobs
from taskruns.access.gate import View, anyone
from taskruns.models import User
from taskruns.services.people.accounts import AccountChanged

from . import known_browsers
from .sign_in import back_to_form


def _where_mail_is_sent(view: Callable[..., HttpResponseBase]) -> View:
    @wraps(view)
    def found(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.MAILS or settings.SSO_ONLY:
            raise Http404
        return view(request, *args, **kwargs)

    return anyone(found)


class AskForm(ResetPasswordForm):  # type: ignore[misc]
    """Looks up no account, so that neither the answer nor its duration reveals whether there is one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].widget.attrs["autofocus"] = True

    def clean_email(self) -> str:
        return str(self.cleaned_data["email"]).strip().lower()

    def save(self, request: HttpRequest, **_kwargs: Any) -> str:
        email = str(self.cleaned_data["email"])
        jobs.wake_password_reset(email)
        return email


class TokenForm(UserTokenForm):  # type: ignore[misc]
    def _get_user(self, uidb36: str) -> User | None:
        """None, as for a forged link, if the account was disabled since the link was mailed."""
        person: User | None = super()._get_user(uidb36)
        return person if person is not None and person.is_active else None


class _Reset(account.PasswordResetFromKeyView):  # type: ignore[misc]
    def form_valid(self, form: Any) -> HttpResponse:
        """Mark this browser as known: its person has proved the address, so others' guesses must not lock them out."""
        try:
            response: HttpResponse = super().form_valid(form)
        except AccountChanged as changed:
            return back_to_form(self.request, changed)
        known_browsers.remember(self.request, response, self.reset_user)
        return response


ask = _where_mail_is_sent(account.password_reset)
sent = _where_mail_is_sent(account.password_reset_done)
reset = _where_mail_is_sent(_Reset.as_view())
over = _where_mail_is_sent(account.password_reset_from_key_done)
