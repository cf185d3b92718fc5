from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.models import SiteRole
from taskruns.services.people import accounts

from ._base import PanelCommand, person_or_new


class Command(PanelCommand):
    help = "Give a person a site role: auditor (reads everything) or admin (creates teams, manages people)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("role", choices=[SiteRole.AUDITOR.value, SiteRole.ADMIN.value])
        parser.add_argument("--create", action="store_true", help="create the account if there is none")
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the new account's password from stdin, line 1"
        )

    def handle(self, *_args: Any, email: str, role: str, create: bool, password_stdin: bool, **_options: Any) -> None:
        by, wanted = Actor.command(), SiteRole(role)
        person, is_new = person_or_new(email, create=create, password_stdin=password_stdin, by=by)
        changed = accounts.grant_site_role(person, role=wanted, by=by)
        if is_new:
            self.say(f"Account {person.email} created.")
        self.say(f"{person.email} is {'now' if changed else 'already'} {wanted.label.lower()}.")
