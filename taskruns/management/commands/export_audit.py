from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.audit.record import SITE_CHAIN
from taskruns.models import Team
from taskruns.services import audit

from ._base import PanelCommand, no_team

REPORT_EVERY = 5_000  # rows


class Command(PanelCommand):
    help = "Write one chain of the audit log to stdout as JSON Lines: a manifest, the events in order, the anchors."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("chain", help="a team's slug, or site")

    def handle(self, *_args: Any, chain: str, **_options: Any) -> None:
        team = None if chain == SITE_CHAIN else Team.objects.filter(slug=chain).first()
        if team is None and chain != SITE_CHAIN:
            raise no_team(chain)
        export = audit.export(team, by=Actor.command(), kind="jsonl")
        for number, line in enumerate(audit.jsonl_lines(export)):
            self.stdout.write(line, ending="")
            if number % REPORT_EVERY == 0:
                self.progress(f"{number} of {export.manifest['last_seq']} rows")
        self.progress("")
