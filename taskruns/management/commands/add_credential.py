from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.services import credentials, key_ring

from ._base import PanelCommand, secret_from_stdin, team_called


class Command(PanelCommand):
    help = "Store an Arize API key for a team. The key is the first line of stdin."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("name", help='a name for the key, for example "Production, Europe"')
        parser.add_argument("--endpoint", required=True, help="Arize's base URL, or one of ARIZE_ENDPOINTS")
        parser.add_argument("--key-stdin", action="store_true", help="read the key from stdin (required)")
        parser.add_argument("--replace", action="store_true", help="replace an existing key of the same name")

    @sensitive_variables("key")
    def handle(
        self, *_args: Any, team: str, name: str, endpoint: str, key_stdin: bool, replace: bool, **_options: Any
    ) -> None:
        if not key_stdin:
            raise CommandError("The key must come from stdin. Add --key-stdin and send the key as line 1.")
        # A key whose ring key is lost for good can still be replaced.
        if (problem := key_ring.problem()) and not replace:
            raise CommandError(problem, returncode=2)
        found, key, by = team_called(team), secret_from_stdin("API key"), Actor.command()
        known = credentials.find_live(found, name)
        if known is None:
            credentials.add(found, name=name, endpoint=endpoint, key=key, expires_on=None, by=by)
            self.say(f"API key {name} stored for {found.slug}. To read its runs now: manage.py refresh {found.slug}")
        elif credentials.is_same_key(known, key=key, endpoint=endpoint):
            self.say(f"API key {known.name} is already stored. Nothing changed.")
        elif replace:
            credentials.replace(known, key=key, endpoint=endpoint, expires_on=None, by=by)
            self.say(f"API key {known.name} of {found.slug} replaced.")
        else:
            raise CommandError(
                f"{found.slug} already has another API key called {known.name}. Add --replace to replace it."
            )
