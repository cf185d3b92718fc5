from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from taskruns.models import Credential
from taskruns.services import credentials

from ._base import PanelCommand, team_called


class Command(PanelCommand):
    help = "List the API keys of all teams, or of one: team, name, endpoint, state, last day, ring key. No secret."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", nargs="?", help="the team's slug; all teams by default")

    def handle(self, *_args: Any, team: str | None, **_options: Any) -> None:
        keys = Credential.objects.live().select_related("team").order_by("team__slug", "name")
        if team is not None:
            keys = keys.filter(team=team_called(team))
        now = timezone.now()
        rows = [
            (
                key.team.slug,
                key.name,
                key.endpoint,
                credentials.state_of(key, now).value,
                key.expires_on.isoformat() if key.expires_on else "",
                str(key.ring_number),
            )
            for key in keys
        ]
        self.table(("team", "name", "endpoint", "state", "last day", "ring key"), rows)
