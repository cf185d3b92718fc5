"""A request is judged by the account and the session as they are when its body has arrived, and when its turn comes."""

import io
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.test import Client

from taskruns.audit import Actor
from taskruns.models import AuditEvent, Membership, SiteRole, Team, User
from taskruns.services.people import accounts, sessions
from tests.clients import ClientOf
from tests.factories import person
from tests.stored import events

SHELL = Actor.command()
FORM = "application/x-www-form-urlencoded"
Change = Callable[[User], Any]


class LateBody(io.BytesIO):
    """A body that ends only after `happens`."""

    def __init__(self, data: bytes, happens: Callable[[], Any]) -> None:
        super().__init__(data)
        self._happens: list[Callable[[], Any]] = [happens]

    def read(self, *size: Any) -> bytes:
        self._wait()
        return super().read(*size)

    def readline(self, *size: Any) -> bytes:
        self._wait()
        return super().readline(*size)

    def _wait(self) -> None:
        while self._happens:
            self._happens.pop()()


class BrokenBody(io.BytesIO):
    def read(self, *_size: Any) -> bytes:
        raise ConnectionResetError


def browser_of(user: User) -> Client:
    """With checks of the form token, which read the body."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    client.get("/accounts/profile/")
    return client


def post(client: Client, path: str, data: dict[str, str], *, happens: Callable[[], Any], more: int = 0) -> Any:
    token = client.cookies[settings.CSRF_COOKIE_NAME].value
    body = urlencode(data | {"csrfmiddlewaretoken": token}).encode()
    stream = {"wsgi.input": LateBody(body, happens), "CONTENT_LENGTH": str(len(body) + more)}
    return client.generic("POST", path, b"x", content_type=FORM, **stream)  # type: ignore[arg-type]


def disable(who: User) -> None:
    accounts.disable_person(who, by=SHELL)


def demote(who: User) -> None:
    accounts.grant_site_role(who, role=SiteRole.NONE, by=SHELL)


def end_sessions(who: User) -> None:
    sessions.end_all(who, by=SHELL)


def nothing(_who: User) -> None: ...


@pytest.fixture(autouse=True)
def _without_second_factor(settings: Any) -> None:
    settings.REQUIRE_MFA = False


@pytest.mark.parametrize(("change", "status"), [(nothing, 302), (disable, 302), (demote, 403), (end_sessions, 302)])
def test_a_late_body_is_no_act_of_a_former_site_admin(change: Change, status: int, vera: User, team: Team):
    bea = person("bea@example.com", site_role="admin")
    client = browser_of(bea)
    answer = post(client, f"/people/{vera.pk}/role/", {"role": "admin"}, happens=lambda: change(bea))
    assert answer.status_code == status
    vera.refresh_from_db()
    assert (vera.site_role == "admin") == (change is nothing)
    assert (AuditEvent.objects.latest("pk").outcome == "denied") == (change is not nothing)


def leave(who: User) -> None:
    Membership.objects.filter(user=who).delete()


@pytest.mark.parametrize(("change", "status"), [(nothing, 302), (disable, 302), (leave, 404), (end_sessions, 302)])
def test_a_late_body_is_no_act_of_a_former_manager(change: Change, status: int, team: Team, mona: User, otto: User):
    client = browser_of(mona)
    fields = {"email": otto.email, "role": "manager"}
    answer = post(client, f"/teams/{team.slug}/members/add/", fields, happens=lambda: change(mona))
    assert answer.status_code == status
    assert Membership.objects.filter(team=team, user=otto).exists() == (change is nothing)


@pytest.mark.parametrize("change", [disable, demote])
def test_a_right_lost_while_the_form_waits_for_its_turn_is_lost(
    change: Change, vera: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    """After the session was loaded, before the gate."""
    bea = person("bea@example.com", site_role="admin")
    client = client_of(bea)
    monkeypatch.setattr("taskruns.middleware.SessionLimits.__call__", _then(lambda: change(bea)))
    answer = client.post(f"/people/{vera.pk}/role/", {"role": "admin"})
    assert answer.status_code == (302 if change is disable else 403)
    vera.refresh_from_db()
    assert vera.site_role == ""


def _then(act: Callable[[], Any]) -> Any:
    def call(self: Any, request: Any) -> Any:
        assert request.user.is_authenticated
        act()
        return self.get_response(request)

    return call


def test_part_of_a_form_changes_nothing(mona: User, team: Team, otto: User):
    client = browser_of(mona)
    fields = {"email": otto.email, "role": "manager"}
    path = f"/teams/{team.slug}/members/add/"
    assert post(client, path, fields, happens=lambda: None, more=1).status_code == 400
    broken = {"wsgi.input": BrokenBody(), "CONTENT_LENGTH": "10"}
    answer = client.generic("POST", path, b"x", content_type=FORM, **broken)  # type: ignore[arg-type]
    assert (answer.status_code, "Nothing was changed" in answer.content.decode()) == (400, True)
    assert events() == []
    assert post(client, path, fields, happens=lambda: None).status_code == 302, "the control"
