"""What the commands about people, teams and keys share: one sentence for each mistake, secrets from stdin only."""

import getpass
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import Team, User
from taskruns.services import people
from taskruns.services.credentials import CredentialsError
from taskruns.services.people import PeopleError
from taskruns.services.teams import TeamsError

NO_DATABASE = "The database cannot be used. Look at DATABASE_URL, and run `manage.py migrate` if it is new."


class PanelCommand(BaseCommand):
    """Whatever a service refuses is one sentence on stderr and exit 1."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except (CredentialsError, PeopleError, TeamsError) as error:
            raise CommandError(error.sentence) from None
        except DatabaseError as error:
            raise CommandError(NO_DATABASE) from error

    def said(self, sentence: str) -> None:
        self.stdout.write(sentence)


@sensitive_variables()
def secret_from_stdin(what: str) -> str:
    """The first line of stdin without its line end. At a terminal it is asked for and not shown."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{what}: ")
    try:
        secret = sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise CommandError(f"The {what} on stdin is not UTF-8 text.") from None
    if not secret:
        raise CommandError(f"There is no {what} on stdin: its first line is empty.")
    return secret


def team_called(slug: str) -> Team:
    team = Team.objects.filter(slug=slug).first()
    if team is None:
        raise CommandError(f"There is no team {slug}.")
    if team.archived_at is not None:
        raise CommandError(f"The team {slug} is archived: nothing in it can be changed any more.")
    return team


def person_called(email: str) -> User:
    person = people.find_person(email)
    if person is None:
        raise CommandError(f"There is no person {people.clean_email(email)}.")
    return person


@sensitive_variables("password")
def person_or_new(email: str, *, create: bool, password_stdin: bool, by: Actor) -> tuple[User, bool]:
    """The person, and whether the account was made just now. A known person's password is neither read nor changed."""
    person = people.find_person(email)
    if person is not None:
        return person, False
    if not create:
        raise CommandError(
            f"There is no person {people.clean_email(email)}. Make the account with --create --password-stdin."
        )
    if not password_stdin:
        raise CommandError("A new account needs a password: give --password-stdin and the password on stdin.")
    password = secret_from_stdin("password")
    return people.create_person(email, password=password, by=by), True
