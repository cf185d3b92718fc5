"""Cancelling many runs: a frozen list, done in short slices of work, each run in the order of `cancellations`.

`draft` makes the list, `lifecycle` begins, aborts and finishes it; for the clock, `worker` goes through it: `dispatch`
opens cancels as `pace` allows, `results` writes what came of them.
"""

from .draft import forget_drafts, freeze, freeze_again, freeze_matching, not_stopped
from .lifecycle import abort, confirm, counts_of, create_batch, stop
from .results import follow_unknown
from .worker import due, work

__all__ = [
    "abort",
    "confirm",
    "counts_of",
    "create_batch",
    "due",
    "follow_unknown",
    "forget_drafts",
    "freeze",
    "freeze_again",
    "freeze_matching",
    "not_stopped",
    "stop",
    "work",
]
