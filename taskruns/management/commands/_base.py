"""What the commands share: one sentence for each mistake and nothing else on stderr, secrets from stdin only."""

import getpass
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import Team, User
from taskruns.services.people import accounts
from taskruns.services.remote_acts import OutcomeNotWritten
from taskruns.services.user_errors import UserError

# As any program that SIGPIPE ends.
READER_GONE = 128 + 13
NO_DATABASE = "The database cannot be used. Look at DATABASE_URL, and run `manage.py migrate` if it is new."


class PanelCommand(BaseCommand):
    """Whatever a service refuses, and a call that is not right, is one sentence on stderr and exit 1."""

    misuse_exit = 1
    _called_from_command_line: bool  # Django's own; its stubs do not know it

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.error = self._misused  # type: ignore[method-assign]
        return parser

    def _misused(self, message: str) -> NoReturn:
        misuse = CommandError(_sentence_of(message), returncode=self.misuse_exit)
        if not self._called_from_command_line:
            raise misuse
        self.stderr.write(f"CommandError: {misuse}")
        sys.exit(misuse.returncode)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            with _quiet_log(is_quiet=options["verbosity"] < 2):
                said = super().execute(*args, **options)
            self.stdout.flush()
        except UserError as error:
            raise CommandError(error.sentence) from None
        except (DatabaseError, OutcomeNotWritten) as error:
            raise CommandError(NO_DATABASE) from error
        except BrokenPipeError:
            # Whoever read the output has enough. Python would complain once more when it empties its buffer.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(READER_GONE)
        return said

    def said(self, sentence: str) -> None:
        self.stdout.write(sentence)

    def progress(self, text: str) -> None:
        """How far it is, over what was said before: on stderr, at a terminal only. Empty: it is over."""
        if self.stderr.isatty():
            self.stderr.write(f"\r{text}" if text else "", ending="" if text else "\n")
            self.stderr.flush()


def _sentence_of(message: str) -> str:
    """argparse's words without the values that were given: one may be a secret in the wrong place."""
    if message.startswith("unrecognized arguments: "):
        options = re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", message)
        message = f"there is no option {', '.join(options)} here" if options else "there are too many arguments"
    message = re.sub(r"ignored explicit argument .*", "takes no value", message, flags=re.DOTALL)
    message = re.sub(r"^argument ([^:]+): ", r"\1: ", message)
    return f"{message[:1].upper()}{message[1:]}. Add --help to see how it is called."


@contextmanager
def _quiet_log(*, is_quiet: bool) -> Iterator[None]:
    """Keep the log's lines off a person's terminal, but for errors."""
    before = logging.root.manager.disable
    if is_quiet:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


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
    person = accounts.find_person(email)
    if person is None:
        raise CommandError(f"There is no person {accounts.clean_email(email)}.")
    return person


@sensitive_variables("password")
def person_or_new(email: str, *, create: bool, password_stdin: bool, by: Actor) -> tuple[User, bool]:
    """The person, and whether the account was made just now. A known person's password is neither read nor changed."""
    person = accounts.find_person(email)
    if person is not None:
        return person, False
    if not create:
        raise CommandError(
            f"There is no person {accounts.clean_email(email)}. Make the account with --create --password-stdin."
        )
    if not password_stdin:
        raise CommandError("A new account needs a password: give --password-stdin and the password on stdin.")
    password = secret_from_stdin("password")
    return accounts.create_person(email, password=password, by=by), True
