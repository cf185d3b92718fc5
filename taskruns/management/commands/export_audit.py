from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns.audit import Actor
from taskruns.management.commands._base import PanelCommand
from taskruns.models import Team
from taskruns.services import audit


class Command(PanelCommand):
    help = "Write one chain of the audit log to stdout as JSON lines: a manifest, its events in order, its anchors."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("chain", help="a team's slug, or site")

    def handle(self, *_args: Any, chain: str, **_options: Any) -> None:
        team = None if chain == "site" else Team.objects.filter(slug=chain).first()
        if team is None and chain != "site":
            raise CommandError(f"There is no team {chain}.")
        for line in audit.jsonl_lines(audit.export(team, by=Actor.command(), kind="jsonl")):
            self.stdout.write(line, ending="")
