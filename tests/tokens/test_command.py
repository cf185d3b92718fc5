"""`create_token` prints the token and nothing else, once."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskruns.models import AuditEvent, Credential, Team, Token, User
from taskruns.services.tokens.identify import identify
from taskruns.services.tokens.secret import is_well_formed

pytestmark = pytest.mark.django_db


def create(*arguments: str) -> str:
    out = io.StringIO()
    call_command("create_token", "ops-north", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: str) -> str:
    before = Token.objects.count()
    with pytest.raises(CommandError) as error:
        create(*arguments)
    assert error.value.returncode == 1
    assert Token.objects.count() == before
    return str(error.value)


def test_the_token_is_the_only_word_on_stdout(team: Team):
    printed = create("Airflow, nightly", "--role", "operator")
    assert printed == f"{printed.strip()}\n"
    assert is_well_formed(printed.strip())
    access = identify(printed.strip(), ip="192.0.2.7", client="")
    assert (access.token.name, access.role, access.token.maker) == ("Airflow, nightly", "operator", None)
    assert (access.token.expires_at - timezone.now()).days == 89
    row = AuditEvent.objects.get()
    assert (row.event, row.actor_type) == ("token.create", "command")


def test_a_second_call_exits_with_1(team: Team):
    create("Airflow", "--role", "viewer")
    assert "already has a token named" in refused("airflow", "--role", "viewer")
    Token.objects.update(revoked_at=timezone.now())
    assert create("Airflow", "--role", "viewer")


def test_its_options(team: Team, oli: User, credential: Credential):
    create("CI", "--role", "operator", "--owner", "OLI@example.com", "--credential", "production", "--days", "7")
    token = Token.objects.get()
    assert (token.maker, token.credential, token.made_by_command) == (oli, credential, False)
    assert (token.expires_at - timezone.now()).days == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("CI", "--role", "manager"), "--role"),
        (("CI",), "--role"),
        (("CI", "--role", "viewer", "--days", "366"), "1 to 365 days"),
        (("CI", "--role", "viewer", "--days", "x"), "--days"),
        (("CI", "--role", "viewer", "--owner", "nobody@example.com"), "There is no account nobody@example.com"),
        (("CI", "--role", "operator", "--owner", "vera@example.com"), "needs at least the role operator"),
        (("CI", "--role", "viewer", "--owner", "otto@example.com"), "needs at least the role viewer"),
        (("CI", "--role", "viewer", "--credential", "Nope"), "has no API key called Nope"),
        (("", "--role", "viewer"), "Enter a name"),
    ],
)
def test_wrong_arguments_have_a_sentence(arguments: Any, words: str, team: Team, vera: User, otto: User):
    assert words in refused(*arguments)


def test_a_missing_or_archived_team_is_refused(team: Team):
    with pytest.raises(CommandError, match="There is no team nowhere"):
        call_command("create_token", "nowhere", "CI", "--role", "viewer")
    Team.objects.update(archived_at=timezone.now())
    assert "is archived" in refused("CI", "--role", "viewer")
