"""Run the queued jobs in the test's own process."""

from datetime import timedelta

import time_machine
from django.utils import timezone
from huey.contrib.djhuey import HUEY


def work(seconds_later: float = 0) -> None:
    """Run all jobs that are due `seconds_later`, as the scheduler and a worker would."""
    with time_machine.travel(timezone.now() + timedelta(seconds=seconds_later)):
        now = HUEY._get_timestamp()
        for task in HUEY.read_schedule(now):
            HUEY.enqueue(task)
        while task := HUEY.dequeue():
            HUEY.execute(task)
