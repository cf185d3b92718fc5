from typing import Any

from taskruns.audit import Actor
from taskruns.management.commands._base import PanelCommand
from taskruns.services import cancellations


class Command(PanelCommand):
    help = "Close open and unknown cancellations whose end can be found out now."

    def handle(self, *_args: Any, **_options: Any) -> None:
        closed = cancellations.sweep(by=Actor.command())
        self.stdout.write(f"{closed} cancellation{'' if closed == 1 else 's'} closed.")
