"""The commands that list teams, people and API keys, and the one that revokes a key."""

import io
import smtplib
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskruns.models import Credential, Team, User
from tests.factories import CANARY, make_credential


def said(*arguments: str) -> list[str]:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().splitlines()


def test_teams_are_listed_with_their_counts(team: Team, other_team: Team, vera: User, credential: Credential):
    Team.objects.filter(pk=other_team.pk).update(archived_at=timezone.now())
    head, north, south = said("list_teams")
    assert head.split() == ["team", "name", "members", "API", "keys", "state"]
    assert north.split() == ["ops-north", "Ops", "North", "1", "1", "active"]
    assert south.split() == ["ops-south", "Ops", "South", "0", "0", "archived"]


def test_people_are_listed_with_their_roles(vera: User, otto: User, adam: User):
    User.objects.filter(pk=vera.pk).update(is_active=False, name="Vera\x1b[31m")
    lines = said("list_people")
    assert [line.split()[0] for line in lines[1:]] == ["adam@example.com", "otto@example.com", "vera@example.com"]
    assert "site admin" in lines[1]
    assert "ops-south:manager" in lines[2]
    assert lines[3].split()[-2:] == ["ops-north:viewer", "disabled"]
    assert "\x1b" not in "".join(lines), "a name does not control the terminal"
    assert [line.split()[0] for line in said("list_people", "ops-south")[1:]] == ["otto@example.com"]


def test_api_keys_are_listed_without_a_secret(credential: Credential, other_team: Team):
    Credential.objects.update(failing_since=timezone.now())
    lines = said("list_credentials", "ops-north")
    assert lines[1].split() == ["ops-north", "Production", credential.endpoint, "failing", "2"]
    output = "\n".join(said("list_credentials"))
    assert not [text for text in (CANARY, CANARY[-4:], credential.ciphertext[:20]) if text in output]
    assert len(said("list_credentials", "ops-south")) == 1


def test_a_key_is_revoked_twice_under_each_spelling_of_its_name(team: Team):
    make_credential(team, name="Prüfung")
    for spelling, result in (("PRÜFUNG", "deleted"), (" prüfung ", "already revoked"), ("Prüfung", "already revoked")):
        (line,) = said("revoke_credential", "ops-north", spelling)
        assert result in line


def test_a_revoked_key_is_gone_from_the_list(credential: Credential):
    (line,) = said("revoke_credential", "ops-north", "production")
    assert line == "API key Production of ops-north deleted from the panel. Revoke it in Arize too."
    assert len(said("list_credentials")) == 1
    assert Credential.objects.get().ciphertext == ""
    assert said("revoke_credential", "ops-north", "Production") == [
        "API key Production of ops-north is already revoked. Nothing changed."
    ]
    with pytest.raises(CommandError, match="ops-north has no API key called Other"):
        said("revoke_credential", "ops-north", "Other")


def test_a_test_mail_reaches_the_address(settings: Any, mailoutbox: list[Any]):
    settings.MAILS = False
    with pytest.raises(CommandError, match="EMAIL_URL is not set") as refused:
        said("send_test_mail", "vera@example.com")
    assert (refused.value.returncode, mailoutbox) == (2, [])
    settings.MAILS = True
    (line,) = said("send_test_mail", "vera@example.com")
    assert line.startswith("The mail server took a test mail for vera@example.com")
    assert [mail.to for mail in mailoutbox] == [["vera@example.com"]]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (smtplib.SMTPAuthenticationError(535, b"secret"), "refused the user name or password"),
        (smtplib.SMTPRecipientsRefused({}), "refused the address"),
        (smtplib.SMTPDataError(550, b"secret"), "answered with code 550"),
        (TimeoutError("secret"), r"could not be used \(TimeoutError\)"),
        (ValueError("secret"), "the address is not valid"),
    ],
)
def test_a_mail_that_is_not_sent_says_why(error: Exception, why: str, settings: Any, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object) -> None:
        raise error

    settings.MAILS = True
    monkeypatch.setattr("django.core.mail.EmailMessage.send", fail)
    with pytest.raises(CommandError, match=why) as refused:
        said("send_test_mail", "vera@example.com")
    assert (refused.value.returncode, "secret" in str(refused.value)) == (1, False)
