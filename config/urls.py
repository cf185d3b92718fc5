"""All URLs of a deployment. Of allauth's account pages, only those in use are included.

Where allauth writes and an audit row is required, both happen in one transaction. A step that cannot be recorded is
rolled back, so its one-time code stays valid.
"""

from functools import wraps
from typing import Any

from allauth.account import views as account
from django.db import transaction
from django.http import HttpRequest, HttpResponseBase
from django.urls import include, path, re_path

from taskruns.access.gate import View
from taskruns.access.redirects import is_read
from taskruns.views.people import factor_checks, password_reset, profile, recent_auth
from taskruns.views.people.sign_in_limits import by_browser, for_people, for_strangers


def in_transaction(view: View) -> View:
    """A transaction for POSTs only: on SQLite, a GET in a transaction would wait for the writer and block others."""
    act = transaction.atomic(view)

    @wraps(view)
    def choose(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return (view if is_read(request) else act)(request, *args, **kwargs)

    return choose


urlpatterns = [
    path("accounts/login/", by_browser(account.login), name="account_login"),
    path("accounts/login/passkey/", in_transaction(factor_checks.login_by_passkey), name="mfa_login_webauthn"),
    path("accounts/login/second-factor/", in_transaction(factor_checks.authenticate), name="mfa_authenticate"),
    path("accounts/logout/", account.logout, name="account_logout"),
    path("accounts/inactive/", account.account_inactive, name="account_inactive"),
    path(
        "accounts/password/change/",
        for_people(in_transaction(profile.change_password)),
        name="account_change_password",
    ),
    path("accounts/confirm/password/", for_people(recent_auth.confirm_by_password), name="account_reauthenticate"),
    path("accounts/confirm/code/", in_transaction(factor_checks.confirm_by_code), name="mfa_reauthenticate"),
    path(
        "accounts/confirm/passkey/",
        in_transaction(factor_checks.confirm_by_passkey),
        name="mfa_reauthenticate_webauthn",
    ),
    # These pages exist only if EMAIL_URL is set; else they are 404.
    path("accounts/password/reset/", password_reset.ask, name="account_reset_password"),
    path("accounts/password/reset/done/", password_reset.sent, name="account_reset_password_done"),
    re_path(
        r"^accounts/password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
        for_strangers(in_transaction(password_reset.reset)),
        name="account_reset_password_from_key",
    ),
    path("accounts/password/reset/over/", password_reset.over, name="account_reset_password_from_key_done"),
    path("", include("taskruns.urls")),
]
handler400 = "taskruns.views.errors.bad_request"
handler403 = "taskruns.views.errors.forbidden"
handler404 = "taskruns.views.errors.not_found"
handler429 = "taskruns.views.errors.too_many"
handler500 = "taskruns.views.errors.server_error"
