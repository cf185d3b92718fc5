from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.services import credentials

from ._base import PanelCommand, secret_from_stdin, team_called


class Command(PanelCommand):
    help = "Keep an Arize API key for a team. The key is the first line of stdin."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("name", help="how the team calls the key")
        parser.add_argument("--endpoint", required=True, help="one of Arize's base urls, or of ARIZE_ENDPOINTS")
        parser.add_argument("--key-stdin", action="store_true", help="read the key from stdin: the only way to give it")
        parser.add_argument("--replace", action="store_true", help="put it in the place of a key of the same name")

    @sensitive_variables("key")
    def handle(
        self, *_args: Any, team: str, name: str, endpoint: str, key_stdin: bool, replace: bool, **_options: Any
    ) -> None:
        if not key_stdin:
            raise CommandError("Give --key-stdin and the key on stdin.")
        found, key, by = team_called(team), secret_from_stdin("API key"), Actor.command()
        known = credentials.find_live(found, name)
        if known is None:
            credentials.add(found, name=name, endpoint=endpoint, key=key, expires_on=None, by=by)
            self.said(f"The key {name} is kept for {found.slug}. `manage.py refresh {found.slug}` reads with it now.")
        elif credentials.holds(known, key=key, endpoint=endpoint):
            self.said(f"The key {known.name} is there already: nothing is changed.")
        elif replace:
            credentials.replace(known, key=key, endpoint=endpoint, expires_on=None, by=by)
            self.said(f"The key {known.name} of {found.slug} is replaced.")
        else:
            raise CommandError(
                f"{found.slug} has another key called {known.name}: give --replace to put this one in its place."
            )
