from typing import Any

from huey.contrib.djhuey.management.commands.run_huey import Command as HueyCommand

from taskruns.services import key_ring


class Command(HueyCommand):  # type: ignore[misc]
    """Huey's own command. A worker that cannot decrypt the stored secrets refuses to start."""

    def handle(self, *args: Any, **options: Any) -> None:
        key_ring.refuse_start()
        super().handle(*args, **options)
