from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.services import people

from ._base import PanelCommand, person_called, secret_from_stdin


class Command(PanelCommand):
    help = "Set a person's password from stdin and end all their sessions."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--password-stdin", action="store_true", help="the new password: line 1 of stdin")

    @sensitive_variables("password")
    def handle(self, *_args: Any, email: str, password_stdin: bool, **_options: Any) -> None:
        if not password_stdin:
            raise CommandError("Give --password-stdin and the new password on stdin.")
        person = person_called(email)
        password = secret_from_stdin("password")
        if people.reset_sign_in(person, password=password, by=Actor.command()):
            self.said(f"{person.email} has the new password; every session is ended.")
        else:
            self.said(f"{person.email} has this password already: nothing is changed.")
        if not person.is_active:
            self.said("The account is disabled and stays so.")
