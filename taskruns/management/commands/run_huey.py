import logging
import os
import sys
from typing import Any

from huey.contrib.djhuey import HUEY
from huey.contrib.djhuey.management.commands.run_huey import Command as HueyCommand

from taskruns.audit.anchors import check_anchor_file
from taskruns.services import readiness
from taskruns.worker.queue import Consumer


class Command(HueyCommand):  # type: ignore[misc]
    """Huey's own command with the panel's consumer.

    A worker that cannot decrypt the stored secrets, or whose database is incomplete, does not start.
    """

    def handle(self, *args: Any, **options: Any) -> None:
        readiness.refuse_start()
        check_anchor_file()
        consumers: list[Consumer] = []

        def create_consumer(**config: Any) -> Consumer:
            consumers.append(Consumer(HUEY, **config))
            return consumers[0]

        HUEY.create_consumer = create_consumer
        super().handle(*args, **options)
        _exit(consumers[0].exit_code)


def _exit(code: int) -> None:
    """End without waiting for threads that still wait for Arize. Their claims were given back."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
