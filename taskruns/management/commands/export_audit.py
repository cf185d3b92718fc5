import io
import sys
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns.audit import Actor
from taskruns.audit.record import SITE_CHAIN
from taskruns.audit.signing_keys import signing_key_problem
from taskruns.models import Team
from taskruns.services import audit

from ._base import COULD_NOT_RUN, PanelCommand, no_team

REPORT_EVERY = 5_000  # rows


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    help = "Write one chain of the audit log to stdout as JSON Lines: a manifest, events, anchors, a signed trailer."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("chain", help="a team's slug, or site")
        parser.add_argument(
            "--after", type=_number, default=0, metavar="SEQ", help="continue the export whose last row has this number"
        )

    def handle(self, *_args: Any, chain: str, after: int, **_options: Any) -> None:
        team = None if chain == SITE_CHAIN else Team.objects.filter(slug=chain).first()
        if team is None and chain != SITE_CHAIN:
            raise no_team(chain)
        if problem := signing_key_problem():
            raise CommandError(problem, returncode=2)
        _write_exact_bytes()
        export = audit.export(team, by=Actor.command(), kind="jsonl", after=after)
        for number, line in enumerate(audit.jsonl_lines(export)):
            self.stdout.write(line, ending="")
            if number % REPORT_EVERY == 0:
                self.progress(f"{after + number} of {export.manifest['last_seq']} rows")
        self.progress("")


def _write_exact_bytes() -> None:
    """The trailer's digest is over UTF-8 with LF, whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="strict", newline="\n")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ArgumentTypeError("must be the number of an entry")
    return int(text)
