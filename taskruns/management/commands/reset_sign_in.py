from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.services.people import accounts

from ._base import PanelCommand, person_called, secret_from_stdin


class Command(PanelCommand):
    help = "Set a person's password from stdin, end all their sessions, and drop lost second factors if asked to."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--password-stdin", action="store_true", help="the new password: line 1 of stdin")
        parser.add_argument("--drop-mfa", action="store_true", help="remove the second factors: they were lost")

    @sensitive_variables("password")
    def handle(self, *_args: Any, email: str, password_stdin: bool, drop_mfa: bool, **_options: Any) -> None:
        if not password_stdin:
            raise CommandError("Give --password-stdin and the new password on stdin.")
        person = person_called(email)
        password = secret_from_stdin("password")
        if accounts.reset_sign_in(person, password=password, drop_factors=drop_mfa, by=Actor.command()):
            dropped = " Their second factors are removed." if drop_mfa else ""
            self.said(f"{person.email} has the new password; every session is ended.{dropped}")
        else:
            self.said(f"{person.email} has this password already: nothing is changed.")
        if not person.is_active:
            self.said("The account is disabled and stays so.")
