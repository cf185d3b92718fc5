from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns.management.commands._base import PanelCommand, no_team
from taskruns.models import Team
from taskruns.services import mirror

MAX_RUNS = 10_000_000


class Command(PanelCommand):
    help = "Write generated past runs directly into a team's mirror, for benchmarks."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("--runs", type=int, required=True, help="how many generated runs the team should have")

    def handle(self, *_args: Any, team: str, runs: int, **_options: Any) -> None:
        found = Team.objects.active().filter(slug=team).first()
        if found is None:
            raise no_team(team)
        if not 0 <= runs <= MAX_RUNS:
            raise CommandError(f"--runs must be from 0 to {MAX_RUNS}.")
        for done in mirror.fill_runs(found, runs=runs):
            self.stdout.write(f"{done} of {runs} runs")
        self.stdout.write(f"{found.slug} now has {runs} generated runs.")
