"""A password has at least 12 characters and is not a common one, wherever it is set."""

import contextlib
import io
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from taskruns.models import Team, TeamRole, User
from taskruns.pages.teams import link_of
from taskruns.services import invitations
from tests.clients import ClientOf
from tests.factories import PASSWORD, actor

GOOD = "Zq8-horse-W4"  # 12 characters
BAD = {
    "11 characters": "Zq8-horse-W",
    "common": "password1234",
    "common too": "qwertyuiop123",
    "digits": "918273645546372819",
    "like the email": "stranger@example",
    "empty": "",
}


def by_invitation(password: str, team: Team, mona: User, _: ClientOf) -> bool:
    link = link_of(invitations.invite(team, email="stranger@example.com", role=TeamRole.VIEWER, by=actor(mona)))
    form = {"name": "Nora", "password1": password, "password2": password}
    answer = Client().post(link.removeprefix("http://localhost:8000"), form)
    assert answer.status_code in {302, 422}
    return User.objects.filter(email="stranger@example.com").exists()


def by_page(password: str, team: Team, mona: User, client_of: ClientOf) -> bool:
    User.objects.filter(pk=mona.pk).update(email="stranger@example.com")
    form = {"oldpassword": PASSWORD, "password1": password, "password2": password}
    client_of(User.objects.get(pk=mona.pk)).post("/accounts/password/change/", form)
    return User.objects.get(pk=mona.pk).check_password(password)


def by_command(password: str, team: Team, mona: User, _: ClientOf) -> bool:
    arguments = ("ops-north", "stranger@example.com", "--role", "viewer", "--create", "--password-stdin")
    return commanded(password, "add_member", *arguments)


def by_reset(password: str, team: Team, mona: User, _: ClientOf) -> bool:
    User.objects.filter(pk=mona.pk).update(email="stranger@example.com")
    return commanded(password, "reset_sign_in", "stranger@example.com", "--password-stdin")


def commanded(password: str, *command: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        with contextlib.suppress(CommandError):
            call_command(*command, stdout=io.StringIO())
    user = User.objects.filter(email="stranger@example.com").first()
    return user is not None and bool(password) and user.check_password(password)


WAYS: dict[str, Callable[[str, Team, User, ClientOf], bool]] = {
    "invitation": by_invitation,
    "page": by_page,
    "command": by_command,
    "reset": by_reset,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("password", BAD.values(), ids=BAD)
def test_weak_password_is_refused_everywhere(
    way: Callable[..., bool], password: str, team: Team, mona: User, client_of: ClientOf
):
    assert not way(password, team, mona, client_of)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_good_password_is_accepted_everywhere(way: Callable[..., bool], team: Team, mona: User, client_of: ClientOf):
    """The control."""
    assert way(GOOD, team, mona, client_of)
