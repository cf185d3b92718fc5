"""Run the queued jobs, and those of the clock, in the test's own process."""

from datetime import timedelta

import time_machine
from django.utils import timezone
from huey.contrib.djhuey import HUEY

from taskruns import jobs


def work(seconds_later: float = 0) -> None:
    """Run all jobs that are due `seconds_later`, as the scheduler and a worker would."""
    with time_machine.travel(timezone.now() + timedelta(seconds=seconds_later)):
        now = HUEY._get_timestamp()
        for task in HUEY.read_schedule(now):
            HUEY.enqueue(task)
        while task := HUEY.dequeue():
            HUEY.execute(task)


def every_minute() -> None:
    for job in jobs.MINUTELY:
        jobs.do_chore(job)


def every_hour() -> None:
    """As the worker: a job that returns true has more to do."""
    for job in jobs.HOURLY:
        while jobs.do_chore(job):
            pass
