from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import User
from taskruns.services.people import accounts

from ._base import PanelCommand, person_called, secret_from_stdin


class Command(PanelCommand):
    help = "Set a person's password from stdin and end all their sessions. Optionally remove lost second factors."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--password-stdin", action="store_true", help="read the new password from line 1 of stdin")
        parser.add_argument("--drop-mfa", action="store_true", help="also remove all second factors, if they were lost")

    @sensitive_variables("password")
    def handle(self, *_args: Any, email: str, password_stdin: bool, drop_mfa: bool, **_options: Any) -> None:
        if not password_stdin:
            raise CommandError("The new password must come from stdin. Add --password-stdin and send it as line 1.")
        person = person_called(email)
        password = secret_from_stdin("password")
        if accounts.reset_sign_in(person, password=password, drop_factors=drop_mfa, by=Actor.command()):
            dropped = " Their second factors were removed." if drop_mfa else ""
            self.say(f"{person.email} has a new password. All their sessions were ended.{dropped}")
            if (until := User.objects.get(pk=person.pk).password_works_until) and settings.SSO_ONLY:
                self.say(f"The password works until {until:%H:%M} UTC, at {settings.SITE_URL}/accounts/login/?password")
        else:
            self.say(f"{person.email} already has this password. Nothing changed.")
        if not person.is_active:
            self.say("The account is still disabled.")
