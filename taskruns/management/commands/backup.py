import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from taskruns.audit.signing_keys import signing_key_id
from taskruns.services import backups
from taskruns.services.user_errors import UserError

from ._base import COULD_NOT_RUN, PanelCommand


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    help = "Write a backup of the whole database to a new file, while the panel works. It holds no key of .env."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the file to write, for example /backup/taskruns-2026-01-31.tar.gz")
        parser.add_argument(
            "--keep", type=_number, metavar="N", help="then delete older backups of this folder, except the newest N"
        )

    def handle(self, *_args: Any, file: Path, keep: int | None, **_options: Any) -> None:
        path = file.absolute()
        try:
            with _ended_by_signals():
                made = backups.create(path)
            removed = backups.older_backups(path, keep) if keep is not None else []
            for old in removed:
                old.unlink()
        except UserError as error:
            raise CommandError(error.sentence, returncode=COULD_NOT_RUN) from None
        except backups.CannotDump as error:
            raise CommandError(f"No backup was made. {error}", returncode=COULD_NOT_RUN) from None
        except OSError as error:
            raise CommandError(
                f"No backup was made, or an older one was not deleted: {error.strerror}. Check the folder of the file, "
                "and its free space.",
                returncode=COULD_NOT_RUN,
            ) from None
        rows = sum(made.manifest["rows"].values())
        self.say(f"Backup written: {path} ({made.bytes:,} bytes, {rows:,} rows).")
        self.say(f"SHA-256: {made.digest}")
        for old in removed:
            self.say(f"Deleted: {old.name}")
        self._say_secrets(made.manifest)

    def _say_secrets(self, manifest: dict[str, Any]) -> None:
        """Names and numbers only."""
        numbers = ", ".join(map(str, manifest["ring_numbers"])) or "none in use"
        self.say("It holds no secret of .env. To restore it you also need these; keep them elsewhere:")
        self.say("  SECRET_KEY")
        self.say(f"  ENCRYPTION_KEYS (numbers: {numbers})")
        self.say(f"  AUDIT_SIGNING_KEY (key {signing_key_id()}), and AUDIT_PUBLIC_KEYS if it is set")
        if settings.AUDIT_ANCHOR_FILE:
            self.say("  the file AUDIT_ANCHOR_FILE, which tells what a restore lost")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block like an error, so that no copy of the database stays in the folder."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(COULD_NOT_RUN))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 100_000:
        raise ArgumentTypeError("must be a number from 1 to 100000")
    return int(text)
