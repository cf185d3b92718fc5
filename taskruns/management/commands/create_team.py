from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.services import teams
from taskruns.services.teams import TeamExists

from ._base import PanelCommand


class Command(PanelCommand):
    help = "Make a team. The same call twice changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--slug", help="the team's part of every address; made of the name without it")

    def handle(self, *_args: Any, name: str, slug: str | None, **_options: Any) -> None:
        try:
            team = teams.create_team(name, slug=slug, by=Actor.command())
        except TeamExists as known:
            self.said(f"The team {known.team.slug} is there already.")
        else:
            self.said(f"The team {team.slug} is made.")
