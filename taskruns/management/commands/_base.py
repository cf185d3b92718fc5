"""The base of all commands: an error is one line on stderr, and secrets come from stdin only."""

import getpass
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import Team, User
from taskruns.services import unfinished
from taskruns.services.people import accounts
from taskruns.services.remote_acts import OutcomeNotWritten
from taskruns.services.user_errors import UserError
from taskruns.verifier import printable

# The exit code of a program ended by SIGPIPE.
READER_GONE = 128 + 13
COULD_NOT_RUN = 2  # exit code
NO_DATABASE = "The database cannot be used. Check DATABASE_URL, and run `manage.py migrate` if the database is new."


class PanelCommand(BaseCommand):
    """Turn every error into one line on stderr. Exit 1 if something is wrong, 2 if the command could not run."""

    misuse_exit = 1
    needs_whole_database = True
    _called_from_command_line: bool  # set by Django; missing in its type stubs

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
                self._refuse_incomplete()
                output = super().execute(*args, **options)
            self.stdout.flush()
        except UserError as error:
            raise CommandError(error.sentence) from None
        except (DatabaseError, OutcomeNotWritten) as error:
            raise CommandError(NO_DATABASE, returncode=COULD_NOT_RUN) from error
        except BrokenPipeError:
            # The reader closed the pipe. Without this, Python would print an error when it flushes its buffer at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(READER_GONE)
        return output

    def _refuse_incomplete(self) -> None:
        """What this command read would be wrong, and what it wrote would be lost."""
        if self.needs_whole_database and (found := unfinished.problem()):
            raise CommandError(found, returncode=COULD_NOT_RUN)

    def say(self, sentence: str) -> None:
        self.stdout.write(sentence)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns, with a heading also if there is no row."""
        lines = [[printable(cell) for cell in row] for row in (head, *rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        for line in lines:
            self.say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def progress(self, text: str) -> None:
        """Overwrite the progress line on stderr, at a terminal only. An empty text ends the line."""
        if self.stderr.isatty():
            self.stderr.write(f"\r{text}" if text else "", ending="" if text else "\n")
            self.stderr.flush()


def _sentence_of(message: str) -> str:
    """argparse's message without the given values: one may be a secret in the wrong place."""
    if message.startswith("unrecognized arguments: "):
        options = re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", message)
        message = f"unknown option {', '.join(options)}" if options else "too many arguments"
    message = re.sub(r"ignored explicit argument .*", "takes no value", message, flags=re.DOTALL)
    message = re.sub(r"^argument ([^:]+): ", r"\1: ", message)
    return f"{message[:1].upper()}{message[1:]}. Add --help to see the usage."


@contextmanager
def _quiet_log(*, is_quiet: bool) -> Iterator[None]:
    """Keep log lines below ERROR off a person's terminal, except if the log is the stream of the audit log too."""
    before = logging.root.manager.disable
    if is_quiet and not settings.AUDIT_LOG_STREAM:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@sensitive_variables()
def secret_from_stdin(what: str) -> str:
    """The first line of stdin without its line end. At a terminal, prompt for it without echo."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{what}: ")
    try:
        # Some editors and shells write a byte order mark, which nobody sees.
        secret = sys.stdin.readline().rstrip("\r\n").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise CommandError(f"The {what} on stdin is not UTF-8 text. Send it as UTF-8.") from None
    if not secret:
        raise CommandError(f"There is no {what} on stdin: its first line is empty. Send it as line 1.")
    return secret


def team_called(slug: str) -> Team:
    team = Team.objects.filter(slug=slug).first()
    if team is None:
        raise no_team(slug)
    if team.archived_at is not None:
        raise CommandError(f"The team {slug} is archived: it can no longer be changed. Use an active team.")
    return team


def no_team(slug: str, *, returncode: int = 1) -> CommandError:
    return CommandError(f"There is no team {slug}. Check the slug in the team's URL.", returncode=returncode)


def person_called(email: str) -> User:
    person = accounts.find_person(email)
    if person is None:
        raise CommandError(f"There is no account {accounts.clean_email(email)}. Check the email address.")
    return person


@sensitive_variables("password")
def person_or_new(email: str, *, create: bool, password_stdin: bool, by: Actor) -> tuple[User, bool]:
    """The person, and whether the account is new. An existing account's password is neither read nor changed."""
    person = accounts.find_person(email)
    if person is not None:
        return person, False
    if not create:
        raise CommandError(
            f"There is no account {accounts.clean_email(email)}. Create it with --create --password-stdin."
        )
    if not password_stdin:
        raise CommandError("A new account needs a password. Add --password-stdin and send the password on stdin.")
    password = secret_from_stdin("password")
    return accounts.create_person(email, password=password, by=by), True
