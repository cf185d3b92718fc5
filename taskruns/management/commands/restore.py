from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.migrate import Command as MigrateCommand
from django.db import DatabaseError, connection
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.audit.anchors import anchor_changed
from taskruns.audit.signing_keys import signing_key_problem
from taskruns.models import Token
from taskruns.pages.values import counted
from taskruns.services import audit, backups, unfinished
from taskruns.services.query_statistics import refresh_statistics
from taskruns.services.user_errors import UserError

from ._base import COULD_NOT_RUN, PanelCommand

NOT_EMPTY = (
    "The database in DATABASE_URL already has tables, and a restore never replaces any. Name an SQLite file that does "
    "not exist yet, or an empty PostgreSQL database."
)
RESTING = (
    "The panel is restored, but not in service yet. Web and worker can start: people can look and cancel runs, but no "
    "anchors are published, no bulk cancels or emergency stops run, and no invitations are mailed. If this is no "
    "drill, stop the old panel for good, then run: manage.py restore --adopt"
)


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    needs_whole_database = False
    requires_system_checks = []  # from Django 6.1 on, they connect, and SQLite would create the file
    help = "Restore a backup into an empty database, or put a restored panel into service with --adopt."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, nargs="?", help="the backup")
        parser.add_argument("--adopt", action="store_true", help="put the restored panel into service; not for drills")
        parser.add_argument(
            "--anchors", type=Path, help="a file of anchors kept outside the database, instead of AUDIT_ANCHOR_FILE"
        )

    def handle(self, *_args: Any, file: Path | None, adopt: bool, anchors: Path | None, **_options: Any) -> None:
        if adopt == (file is not None):
            raise CommandError("Name either a backup or --adopt.", returncode=COULD_NOT_RUN)
        if file is None:
            self._adopt()
        else:
            self._restore(file, anchors)

    def _adopt(self) -> None:
        if found := unfinished.problem():
            raise CommandError(found, returncode=COULD_NOT_RUN)
        try:
            adopted = backups.adopt(by=Actor.command())
        except UserError as error:
            raise CommandError(error.sentence) from None
        if adopted:
            self.say("The restored panel is in service: anchors are published, and interrupted work continues.")
        else:
            self.say("There is nothing to adopt: this panel is in service. Nothing changed.")

    def _restore(self, file: Path, anchors: Path | None) -> None:
        if backups.has_tables():
            raise CommandError(NOT_EMPTY, returncode=COULD_NOT_RUN)
        archive = _opened(file)
        _known(anchors)  # before the long load
        manifest = archive.manifest
        for problem in (backups.problem_of_target(manifest), backups.refuse_newer(manifest)):
            if problem:
                raise CommandError(problem, returncode=COULD_NOT_RUN)
        total, so_far = manifest["parts"]["database"]["bytes"], 0

        def unpacked(length: int) -> None:
            nonlocal so_far
            so_far += length
            self.progress(f"{so_far:,} of {total:,} bytes")

        try:
            with backups.loaded(archive, unpacked):
                self.progress("")
                report = self._complete(archive, anchors)
        except backups.BadBackup as error:
            raise CommandError(f"Nothing was restored. {error}") from None
        except (backups.LoadFailed, backups.CannotDump) as error:
            raise CommandError(f"Nothing was restored. {error}", returncode=COULD_NOT_RUN) from None
        except DatabaseError as error:
            sentence = f"Nothing was restored. The database refused a step: {_first_line(error)}"
            raise CommandError(sentence, returncode=COULD_NOT_RUN) from error
        self._say_missing_keys(manifest)
        self.say(RESTING)
        if report.fault_count:
            raise CommandError(
                f"The restored audit log has {report.fault_count} faults, listed above. Compare with another backup "
                "before you adopt this one."
            )

    def _complete(self, archive: backups.Archive, anchors: Path | None) -> audit.Report:
        """Everything after the rows are there: newer tables, the rows of the audit log, its verification."""
        # Django's own command: MIGRATE_DATABASE_URL may name the database of the real panel.
        call_command(MigrateCommand(), interactive=False, verbosity=0)
        if problem := signing_key_problem():
            raise CommandError(f"Nothing was restored. {problem}", returncode=COULD_NOT_RUN)
        by, manifest = Actor.command(), archive.manifest
        known = _known(anchors)  # again: in a drill, the real panel signed more since
        found = backups.acknowledge(archive, anchors=known, by=by)
        anchor_changed()
        _analyze()
        self.say(f"Restored the backup of {manifest['made_at']} (release {manifest['version']}).")
        for one in found:
            if one.first is not None:
                self.say(f"{one.chain}: rows {one.first}-{one.last} are lost; row {one.seq} records it.")
        if known is None:
            self.say("There was no file of anchors to compare with: more rows may be lost than anything here knows.")
        self.say("All sessions were ended: everyone signs in again.")
        tokens = Token.objects.live(timezone.now()).count()
        if said := counted(tokens, "token works", "tokens work", "as when the backup was made."):
            self.say(f"{said} Revoke again what was revoked since then.")
        report = audit.verify(by=by, anchors=anchors, progress=self._verified, found=self.say)
        self.progress("")
        for name, rows in report.rows_of.items():
            self.say(f"{name}: {rows} rows, {report.anchors_of[name]} anchors checked")
        for note in report.notes:
            self.say(f"note: {note}")
        if not report.fault_count:
            self.say("audit log: clean")
        return report

    def _verified(self, so_far: audit.Report) -> None:
        self.progress(f"{so_far.rows} rows verified, {so_far.fault_count} faults")

    def _say_missing_keys(self, manifest: dict[str, Any]) -> None:
        missing = sorted(set(manifest["ring_numbers"]) - settings.ENCRYPTION_KEYS.keys())
        if missing:
            numbers = ", ".join(map(str, missing))
            self.say(
                f"ENCRYPTION_KEYS lacks number {numbers}: add it before you start the panel. Without it, the API keys "
                "must be replaced."
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _opened(file: Path) -> backups.Archive:
    try:
        return backups.Archive(file)
    except backups.BadBackup as error:
        raise CommandError(f"Nothing was restored. {error}") from None
    except OSError as error:
        sentence = f"The backup cannot be opened: {error.strerror}. Check its path and permissions."
        raise CommandError(sentence, returncode=COULD_NOT_RUN) from None


def _known(anchors: Path | None) -> audit.AnchorFile | None:
    """Without the anchors, the row of the restore could take a number that the lost part of the log used."""
    try:
        return backups.known_anchors(anchors)
    except audit.NoAnchors as error:
        sentence = f"Nothing was restored. {error} If it is lost, unset AUDIT_ANCHOR_FILE for this command."
        raise CommandError(sentence, returncode=COULD_NOT_RUN) from None


def _analyze() -> None:
    """Without statistics, PostgreSQL sorts the rest of a chain for each chunk that the verification reads."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    else:
        refresh_statistics()
