import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from taskruns.audit import Actor
from taskruns.management.commands._base import PanelCommand
from taskruns.models import Team
from taskruns.services import audit

COULD_NOT_RUN = 2


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    help = "Walk the audit log and tell whether anybody has touched it. Exit 0 clean, 1 faults, 2 could not run."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--chain", help="a team's slug, or site; all chains without it")
        parser.add_argument("--anchors", type=Path, help="a copy of the anchors kept outside the database")

    def handle(self, *_args: Any, chain: str | None, anchors: Path | None, **_options: Any) -> None:
        try:
            report = audit.verify(by=Actor.command(), chain=_chain(chain), outside=_outside(anchors), tell=self._tell)
        except DatabaseError:
            raise CommandError(
                "The log cannot be read, or the verification cannot be recorded.", returncode=COULD_NOT_RUN
            ) from None
        if self.stderr.isatty():
            self.stderr.write("")
        for name, rows in report.chains.items():
            self.said(f"{name}: {rows} rows checked")
        for fault in report.faults:
            self.said(fault)
        if report.fault_count > len(report.faults):
            self.said(f"and {report.fault_count - len(report.faults)} more")
        self.said(f"{report.fault_count} faults" if report.fault_count else "clean")
        if report.fault_count:
            sys.exit(1)

    def _tell(self, so_far: audit.Report) -> None:
        """Progress, at a terminal only."""
        if self.stderr.isatty():
            self.stderr.write(f"\r{so_far.rows} rows, {so_far.fault_count} faults", ending="")
            self.stderr.flush()


def _chain(name: str | None) -> str | None:
    if name is None or name == "site":
        return name
    team = Team.objects.filter(slug=name).first()
    if team is None:
        raise CommandError(f"There is no team {name}.", returncode=COULD_NOT_RUN)
    return f"team:{team.pk}"


def _is_anchor(value: Any) -> bool:
    if not isinstance(value, dict) or type(value.get("seq")) is not int:
        return False
    return all(isinstance(value.get(name), str) for name in ("chain", "hash", "signed_at", "key_id", "signature"))


def _outside(path: Path | None) -> list[dict[str, Any]]:
    if path is None:
        return []
    try:
        with path.open(encoding="utf-8") as lines:
            anchors = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError):
        raise CommandError("The file of anchors cannot be read.", returncode=COULD_NOT_RUN) from None
    if not all(map(_is_anchor, anchors)):
        raise CommandError("The file of anchors holds lines that are no anchors.", returncode=COULD_NOT_RUN)
    return anchors
