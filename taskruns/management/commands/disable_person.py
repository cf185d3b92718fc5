from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.services.people import accounts

from ._base import PanelCommand, person_called


class Command(PanelCommand):
    help = "Disable a person's account: they cannot sign in, and all their sessions end."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")

    def handle(self, *_args: Any, email: str, **_options: Any) -> None:
        person = person_called(email)
        changed = accounts.disable_person(person, by=Actor.command())
        self.say(f"{person.email} is {'now' if changed else 'already'} disabled.")
