"""Common actions of people in the panel, through Django's test client."""

import time
from collections.abc import Callable
from typing import Any

from allauth.account.internal.userkit import user_id_to_str
from allauth.mfa.totp.internal.auth import format_hotp_value, generate_totp_secret, hotp_value
from django.http import HttpResponse
from django.test import Client

from taskruns.models import Run, User
from taskruns.services.people import factors
from tests.factories import PASSWORD, actor

ClientOf = Callable[[User | None], Client]


def signed_in(user: User | None) -> Client:
    """A browser of the person, signed in with their second factor if they have one; without a person, a stranger's."""
    client = Client()
    if user is not None:
        client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
        if factors.has_second(user):
            show_factor(client, user)
    return client


def show_factor(client: Client, user: User) -> None:
    """Change the session as if the person had entered a code at sign-in."""
    session = client.session
    session["account_authentication_methods"] = [{"method": "mfa", "type": "totp", "at": time.time()}]
    session["account_authentication_methods_user"] = user_id_to_str(user)
    session.save()


def code_of(secret: str, steps: int = 0) -> str:
    """The code that the app shows now, or `steps` of 30 s from now."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps))


def click_cancel(client: Client, run: Run, *, htmx: bool = True, **data: str) -> Any:
    """Cancel with the board's dialog (htmx) or with the form of the page that asks."""
    headers = {"HX-Request": "true", "HX-Target": f"run-{run.pk}"} if htmx else {}
    return client.post(f"/teams/{run.team.slug}/runs/{run.pk}/cancel/", {"confirmed": "1", **data}, headers=headers)


def sign_in(client: Client, email: str, password: str = PASSWORD, query: str = "", **more: str) -> HttpResponse:
    answer: HttpResponse = client.post(f"/accounts/login/{query}", {"login": email, "password": password, **more})
    return answer


Code = Callable[..., str]


def with_app(person: User) -> Code:
    secret = generate_totp_secret()
    factors.add_totp(person, secret=secret, by=actor(person))
    return lambda steps=0: code_of(secret, steps)
