from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns.audit import Actor
from taskruns.services import credentials

from ._base import PanelCommand, team_called


class Command(PanelCommand):
    help = "Delete a team's API key from the panel. Revoke it in Arize too: the panel cannot do that."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("name", help="the name of the API key")

    def handle(self, *_args: Any, team: str, name: str, **_options: Any) -> None:
        found = team_called(team)
        key = credentials.find_live(found, name)
        if key is not None and credentials.revoke(key, by=Actor.command()):
            self.say(f"API key {key.name} of {found.slug} deleted from the panel. Revoke it in Arize too.")
        elif credentials.was_revoked(found, name):
            self.say(f"API key {name} of {found.slug} is already revoked. Nothing changed.")
        else:
            raise CommandError(f"{found.slug} has no API key called {name}. `manage.py list_credentials` lists them.")
