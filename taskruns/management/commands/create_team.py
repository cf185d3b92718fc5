from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.services import teams
from taskruns.services.teams import TeamExists

from ._base import PanelCommand


class Command(PanelCommand):
    help = "Create a team. Running it again changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--slug", help="the team's part of its URLs; derived from the name by default")

    def handle(self, *_args: Any, name: str, slug: str | None, **_options: Any) -> None:
        try:
            team = teams.create_team(name, slug=slug, by=Actor.command())
        except TeamExists as known:
            self.say(f"Team {known.team.slug} already exists. Nothing changed.")
        else:
            self.say(f"Team {team.slug} created.")
