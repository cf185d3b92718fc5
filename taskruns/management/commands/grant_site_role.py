from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.models import SiteRole
from taskruns.services.people import accounts

from ._base import PanelCommand, person_or_new


class Command(PanelCommand):
    help = "Give a person a role on the whole site: auditor (reads everything) or admin (makes teams, manages people)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("role", choices=[SiteRole.AUDITOR.value, SiteRole.ADMIN.value])
        parser.add_argument("--create", action="store_true", help="make the account if there is none")
        parser.add_argument("--password-stdin", action="store_true", help="the new account's password: line 1 of stdin")

    def handle(self, *_args: Any, email: str, role: str, create: bool, password_stdin: bool, **_options: Any) -> None:
        by, wanted = Actor.command(), SiteRole(role)
        person, is_new = person_or_new(email, create=create, password_stdin=password_stdin, by=by)
        changed = accounts.grant_site_role(person, role=wanted, by=by)
        if is_new:
            self.said(f"The account {person.email} is made.")
        self.said(f"{person.email} is {'now' if changed else 'already'} {wanted.label.lower()}.")
