from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from taskruns.audit import Actor
from taskruns.encryption import Ring
from taskruns.services.encryption import Report, reencrypt

from ._base import PanelCommand


class Command(PanelCommand):
    help = "Encrypt all stored secrets with the newest of ENCRYPTION_KEYS. Then the older keys can be removed."

    def handle(self, *_args: Any, **_options: Any) -> None:
        newest = Ring(settings.ENCRYPTION_KEYS).newest
        reports = reencrypt(by=Actor.command(), progress=self._progress)
        self.progress("")
        for name, report in reports.items():
            self.say(f"{name}: {report.done} re-encrypted with ring key {newest}.")
        unreadable = sum(report.unreadable for report in reports.values())
        if unreadable:
            secrets = "secret" if unreadable == 1 else "secrets"
            raise CommandError(
                f"{unreadable} {secrets} cannot be decrypted with any of ENCRYPTION_KEYS. Add the missing ring key and "
                "run this command again, or replace or revoke those secrets."
            )
        self.say(f"All secrets use ring key {newest}. You can remove the other keys from ENCRYPTION_KEYS.")

    def _progress(self, name: str, so_far: Report, total: int) -> None:
        self.progress(f"{name}: {so_far.done + so_far.unreadable} of {total}")
