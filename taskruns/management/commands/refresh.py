from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns import jobs
from taskruns.audit import Actor
from taskruns.models import Credential, Team
from taskruns.pages.credentials import first_contacts
from taskruns.services import key_ring, mirror, stops

from ._base import PanelCommand, no_team


class Command(PanelCommand):
    help = "Read from Arize now: one round with every API key, or with those of one team. Exit 1 if a key failed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", nargs="?", help="the team's slug; all teams by default")

    def handle(self, *_args: Any, team: str | None, **_options: Any) -> None:
        if problem := key_ring.problem():
            raise CommandError(problem, returncode=2)
        keys = Credential.objects.live().select_related("team").order_by("team__slug", "name")
        if team is not None:
            if not Team.objects.active().filter(slug=team).exists():
                raise no_team(team)
            keys = keys.filter(team__slug=team)
        problems = [problem for key in keys if (problem := self._round(key))]
        if not keys:
            self.stdout.write("There are no API keys to read with.")
        if problems:
            raise CommandError(f"{len(problems)} of {len(keys)} API keys failed: {' '.join(problems)}")

    def _round(self, key: Credential) -> str:
        """Read with one key and print what it found. Returns the problem, or "" if there was none."""
        report = mirror.refresh(key.pk, force=True, by=Actor.command())
        if report is None:
            return ""
        line = f"{key.team.slug} / {key.name}: {report.tasks} tasks, {report.changed} changes, {report.calls} calls"
        self.stdout.write(f"{line}. {report.problem}".rstrip())
        self._wake_stop(key)
        key.refresh_from_db()
        for contact in first_contacts([key]):
            if contact.is_listed:
                self.stdout.write(f"{contact.text} The worker continues.")
        return f"{key.team.slug} / {key.name}: {report.problem}" if report.problem else ""

    def _wake_stop(self, key: Credential) -> None:
        """Cancel the new runs if an emergency stop is active."""
        batch = stops.hold_after_round(key.pk)
        if batch is not None:
            jobs.wake_batch(batch.pk)
            self.stdout.write(f"An emergency stop is active in {key.team.slug}: new runs are being cancelled.")
