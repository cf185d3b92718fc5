"""Every url of one deployment. Only the account pages that people can really use are here, not all of allauth's."""

from allauth.account import views as account
from django.db import transaction
from django.urls import include, path

from taskruns.views import sign_in

change_password = transaction.atomic(sign_in.PasswordChange.as_view())
urlpatterns = [
    path("accounts/login/", account.login, name="account_login"),
    path("accounts/logout/", account.logout, name="account_logout"),
    path("accounts/inactive/", account.account_inactive, name="account_inactive"),
    path(
        "accounts/password/change/",
        transaction.atomic(sign_in.PasswordChange.as_view()),
        name="account_change_password",
    ),
    path("", include("taskruns.urls")),
]
handler400 = "taskruns.views.errors.bad_request"
handler403 = "taskruns.views.errors.forbidden"
handler404 = "taskruns.views.errors.not_found"
handler429 = "taskruns.views.errors.too_many"
handler500 = "taskruns.views.errors.server_error"
