import sys
from typing import Any

from django.core.management.base import CommandParser

from config import doctor

from ._base import COULD_NOT_RUN, PanelCommand


class Command(PanelCommand):
    """`manage.py` runs it without this class, because the settings may be what is wrong."""

    misuse_exit = COULD_NOT_RUN
    needs_whole_database = False
    requires_system_checks = []
    help = "Check this deployment: variables, secrets, database, queue, worker, files, and what it must reach."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the checks as JSON")

    def handle(self, *_args: Any, json: bool, **_options: Any) -> None:
        sys.exit(doctor.main(["--json"] if json else []))
