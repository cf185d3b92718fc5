from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import Credential, Team, TokenRole
from taskruns.services import credentials
from taskruns.services.tokens import actions
from taskruns.services.tokens.actions import USUAL_DAYS, Wanted

from ._base import PanelCommand, person_called, team_called


class Command(PanelCommand):
    help = "Create a token for a script. It is printed alone on stdout, once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("name", help='which script uses it, for example "Airflow, nightly"')
        parser.add_argument("--role", required=True, choices=TokenRole.values, help="what the token may do")
        parser.add_argument("--owner", metavar="EMAIL", help="a member; the token ends with their role in the team")
        parser.add_argument("--credential", metavar="NAME", help="the API key that its requests use")
        parser.add_argument("--days", type=int, default=USUAL_DAYS, help="how long it works (default: %(default)s)")

    @sensitive_variables("made")
    def handle(
        self,
        *_args: Any,
        team: str,
        name: str,
        role: str,
        owner: str | None,
        credential: str | None,
        days: int,
        **_options: Any,
    ) -> None:
        found = team_called(team)
        wanted = Wanted(name, TokenRole(role), days, _key(found, credential) if credential is not None else None)
        person = person_called(owner) if owner is not None else None
        made = actions.make(found, wanted, owner=person, by=Actor.command())
        self.say(made.secret)


def _key(team: Team, name: str) -> Credential:
    found = credentials.find_live(team, name)
    if found is None:
        raise CommandError(f"{team.slug} has no API key called {name}. See manage.py list_credentials {team.slug}.")
    return found
