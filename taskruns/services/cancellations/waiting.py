"""Waiting for the outcome of a cancel that another request or the worker sends.

A close in this process wakes the waiting at once; one in another process is found in the database.
"""

import threading
import time
import uuid

from taskruns.models import Cancellation, Outcome

FIRST_LOOK = 0.05  # seconds between two looks, doubled each time
LONGEST_LOOK = 1.0
_closed = threading.Condition()


def tell_waiting() -> None:
    """An outcome was committed."""
    with _closed:
        _closed.notify_all()


def wait_for(cancellation_id: uuid.UUID, *, seconds: float) -> Cancellation | None:
    """The cancellation as soon as it has an outcome or Arize has accepted it, else as it is after these seconds.

    None if it was deleted: its run had ended.
    """
    until, pause = time.monotonic() + seconds, FIRST_LOOK
    while True:
        row = Cancellation.objects.filter(pk=cancellation_id).first()
        left = until - time.monotonic()
        if row is None or row.outcome != Outcome.OPEN or row.stopping_since is not None or left <= 0:
            return row
        with _closed:
            _closed.wait(min(pause, left))
        pause = min(2 * pause, LONGEST_LOOK)
