"""What the worker's lanes do, in the test's own process."""

from django.utils import timezone

from taskruns import jobs
from taskruns.services import channels


def work_off() -> None:
    """Match all facts, then send all that is due."""
    while jobs.match_facts():
        pass
    send_due()


def send_due() -> None:
    for channel_id in channels.due(timezone.now()):
        while jobs.send_messages(channel_id):
            pass
