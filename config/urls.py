"""All URLs of a deployment. Of allauth's account pages, only those in use are included.

Where allauth writes and an audit row is required, both happen in one transaction. A step that cannot be recorded is
rolled back, so its one-time code stays valid.
"""

from allauth.account import views as account
from django.db import transaction
from django.urls import include, path, re_path

from taskruns.views.people import factor_checks, password_reset, profile, recent_auth

urlpatterns = [
    path("accounts/login/", account.login, name="account_login"),
    path("accounts/login/passkey/", transaction.atomic(factor_checks.login_by_passkey), name="mfa_login_webauthn"),
    path("accounts/login/second-factor/", transaction.atomic(factor_checks.authenticate), name="mfa_authenticate"),
    path("accounts/logout/", account.logout, name="account_logout"),
    path("accounts/inactive/", account.account_inactive, name="account_inactive"),
    path("accounts/password/change/", transaction.atomic(profile.change_password), name="account_change_password"),
    path("accounts/confirm/password/", recent_auth.confirm_by_password, name="account_reauthenticate"),
    path("accounts/confirm/code/", transaction.atomic(factor_checks.confirm_by_code), name="mfa_reauthenticate"),
    path(
        "accounts/confirm/passkey/",
        transaction.atomic(factor_checks.confirm_by_passkey),
        name="mfa_reauthenticate_webauthn",
    ),
    # These pages exist only if EMAIL_URL is set; else they are 404.
    path("accounts/password/reset/", password_reset.ask, name="account_reset_password"),
    path("accounts/password/reset/done/", password_reset.sent, name="account_reset_password_done"),
    re_path(
        r"^accounts/password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
        transaction.atomic(password_reset.reset),
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
