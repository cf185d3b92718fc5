from typing import Any

from taskruns.audit import Actor
from taskruns.management.commands._base import PanelCommand
from taskruns.services import cancellations, credentials, triggers


class Command(PanelCommand):
    help = "Close open or unknown cancellations whose outcome is now known, and what a crash left open."

    def handle(self, *_args: Any, **_options: Any) -> None:
        started = triggers.sweep(by=Actor.command())
        if started:
            self.stdout.write(f"{started} start{'' if started == 1 else 's'} of a run closed as unknown.")
        tests = credentials.sweep(by=Actor.command())
        if tests:
            self.stdout.write(f"{tests} key test{'' if tests == 1 else 's'} ended as failed.")
        closed = cancellations.sweep(by=Actor.command())
        self.stdout.write(f"{closed} cancellation{'' if closed == 1 else 's'} closed.")
