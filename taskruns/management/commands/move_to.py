import os
import subprocess
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from taskruns.services import moves

from ._base import COULD_NOT_RUN, PanelCommand


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    help = (
        "Copy everything to another kind of database: from SQLite to PostgreSQL or back. The target must be migrated "
        "and empty; web and worker must be stopped. An interrupted move can be repeated. "
        "Leave a password out of the URL: PGPASSWORD or ~/.pgpass holds it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("database_url", help="the target, as in DATABASE_URL")

    def handle(self, *_args: Any, database_url: str, **_options: Any) -> None:
        try:
            moves.connect(database_url)
            if (done := moves.finished_at()) is not None:
                self.say(f"The panel was already moved there at {done:%Y-%m-%d %H:%M:%S} UTC. Nothing changed.")
                self.say("If that move did not say that the log there is clean, run verify_audit there.")
                return
            if problem := moves.problem():
                raise CommandError(problem, returncode=COULD_NOT_RUN)
            counts = moves.move(self._progress)
        except moves.CannotMove as error:
            raise CommandError(str(error), returncode=COULD_NOT_RUN) from None
        except DatabaseError as error:
            sentence = f"Nothing was moved. One of the two databases refused a step: {type(error).__name__}."
            raise CommandError(f"{sentence} {_first_line(error)}".rstrip(), returncode=COULD_NOT_RUN) from error
        self.progress("")
        self._analyze()
        for table, rows in counts.items():
            if rows:
                self.say(f"{table}: {rows} rows")
        self.say(f"Moved {sum(counts.values()):,} rows of {len(counts)} tables. Verifying the audit log there:")
        self._verify(database_url)
        self.say("Set DATABASE_URL to the target and start the panel. Keep the old database until you are sure.")

    def _progress(self, table: str, done: int, total: int) -> None:
        self.progress(f"{table}: {done} of {total}")

    def _analyze(self) -> None:
        try:
            moves.analyze()
        except DatabaseError as error:
            sentence = (
                f"The rows were moved, but the target could not count them for its plans: {type(error).__name__}."
            )
            raise CommandError(f"{sentence} Run ANALYZE and verify_audit there.", returncode=COULD_NOT_RUN) from error

    def _verify(self, url: str) -> None:
        """In a new process whose database is the target. Its output is shown when it has ended."""
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL_FILE"}
        self.stdout.flush()
        ended = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "verify_audit"],
            check=False,
            capture_output=True,
            text=True,
            env=environment | {"DATABASE_URL": url},
        )
        self.stdout.write(ended.stdout, ending="")
        if ended.returncode:
            why = ended.stderr.strip().removeprefix("CommandError: ")
            raise CommandError(
                f"The rows were moved, but the verification of the audit log in the target failed: "
                f"{why or 'see the faults above.'} Do not use the target.",
                returncode=1 if ended.returncode == 1 else COULD_NOT_RUN,
            )


def _first_line(error: Exception) -> str:
    """What the database said, for example which value it refused. Connection errors do not show passwords."""
    return (str(error).strip().splitlines() or [""])[0]
