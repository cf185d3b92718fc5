from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns.audit import Actor
from taskruns.audit.record import SITE_CHAIN
from taskruns.management.commands._base import PanelCommand
from taskruns.models import Team
from taskruns.services import audit

TELL_EACH = 5_000  # rows


class Command(PanelCommand):
    help = "Write one chain of the audit log to stdout as JSON lines: a manifest, its events in order, its anchors."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("chain", help="a team's slug, or site")

    def handle(self, *_args: Any, chain: str, **_options: Any) -> None:
        team = None if chain == SITE_CHAIN else Team.objects.filter(slug=chain).first()
        if team is None and chain != SITE_CHAIN:
            raise CommandError(f"There is no team {chain}.")
        export = audit.export(team, by=Actor.command(), kind="jsonl")
        for number, line in enumerate(audit.jsonl_lines(export)):
            self.stdout.write(line, ending="")
            if number % TELL_EACH == 0:
                self.progress(f"{number} of {export.manifest['last_seq']} rows")
        self.progress("")
