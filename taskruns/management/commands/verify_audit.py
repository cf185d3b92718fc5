import gc
import sys
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from taskruns.audit import Actor
from taskruns.audit.record import SITE_CHAIN, chain_of
from taskruns.audit.signing_keys import signing_key_problem
from taskruns.management.commands._base import COULD_NOT_RUN, PanelCommand, no_team
from taskruns.models import Team
from taskruns.services import audit

UNREADABLE_ANCHORS = (
    "AUDIT_ANCHOR_FILE cannot be read or has no anchors of this log, so the log was not compared with it. Check its "
    "permissions and whether it was emptied, or name a copy with --anchors."
)
NO_DATABASE = "The log cannot be read, or the verification cannot be recorded. Check the database, then run this again."


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    help = (
        "Verify that the audit log was not tampered with. Exit code: 0 clean, 1 faults, 2 could not run. "
        "Of the anchors older than 90 days the database keeps one a day; a file of anchors is compared whole."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--chain", help="a team's slug, or site; all chains by default")
        parser.add_argument(
            "--anchors", type=Path, help="a file of anchors kept outside the database, instead of AUDIT_ANCHOR_FILE"
        )

    def handle(self, *_args: Any, chain: str | None, anchors: Path | None, **_options: Any) -> None:
        # Verification makes millions of objects and no reference cycles. Looking for cycles costs a fifth of the time.
        gc.disable()
        try:
            report = self._report(chain, anchors)
        finally:
            gc.enable()
        self.progress("")
        for name, rows in report.rows_of.items():
            self.say(f"{name}: {rows} rows, {report.anchors_of[name]} anchors checked")
        for note in report.notes:
            self.say(f"note: {note}")
        if not report.compared:
            self.say("not checked against external anchors: a truncated or recomputed chain may go unnoticed")
        if report.fault_count or not report.is_anchor_file_unreadable:
            self.say(f"{report.fault_count} faults" if report.fault_count else "clean")
        if report.fault_count:
            sys.exit(1)
        if report.is_anchor_file_unreadable:
            raise CommandError(UNREADABLE_ANCHORS, returncode=COULD_NOT_RUN)

    def _report(self, chain: str | None, anchors: Path | None) -> audit.Report:
        """Turn every error into one line and exit 2, never a traceback: exit 1 means faults."""
        try:
            _refuse_another_key()
            return audit.verify(
                by=Actor.command(), chain=_chain(chain), anchors=anchors, progress=self._progress, found=self.say
            )
        except audit.NoAnchors as error:
            sentence = str(error)
        except DatabaseError:
            sentence = NO_DATABASE
        except CommandError:
            raise
        except ImproperlyConfigured as error:
            sentence = str(error)
        except Exception as error:  # noqa: BLE001 - see above
            sentence = f"The verification stopped with an unexpected error, so the log was not fully checked: {error!a}"
        raise CommandError(sentence, returncode=COULD_NOT_RUN) from None

    def _progress(self, so_far: audit.Report) -> None:
        self.progress(f"{so_far.rows} rows, {so_far.fault_count} faults")


def _refuse_another_key() -> None:
    """Every anchor would seem forged, and rows of an honest log would say so for good."""
    if problem := signing_key_problem():
        raise CommandError(problem, returncode=COULD_NOT_RUN)


def _chain(name: str | None) -> str | None:
    if name is None or name == SITE_CHAIN:
        return name
    team = Team.objects.filter(slug=name).first()
    if team is None:
        raise no_team(name, returncode=COULD_NOT_RUN)
    return chain_of(team.pk)
