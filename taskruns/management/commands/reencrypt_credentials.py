from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from taskruns.audit import Actor
from taskruns.encryption import Ring
from taskruns.services.encryption import Report, reencrypt

from ._base import PanelCommand


class Command(PanelCommand):
    help = "Encrypt all stored secrets with the newest of ENCRYPTION_KEYS. Afterwards the older ones can be taken out."

    def handle(self, *_args: Any, **_options: Any) -> None:
        newest = Ring(settings.ENCRYPTION_KEYS).newest
        reports = reencrypt(by=Actor.command(), progress=self._progress)
        self.progress("")
        for name, report in reports.items():
            self.said(f"{name}: {report.done} encrypted again with ring key {newest}.")
        unreadable = sum(report.unreadable for report in reports.values())
        if unreadable:
            raise CommandError(
                f"{unreadable} could not be opened with any of ENCRYPTION_KEYS. Put the missing ring key back and run "
                "this again, or replace or revoke them."
            )
        self.said(f"All is encrypted with ring key {newest}: the others can be taken out of ENCRYPTION_KEYS.")

    def _progress(self, name: str, so_far: Report, total: int) -> None:
        self.progress(f"{name}: {so_far.done + so_far.unreadable} of {total}")
