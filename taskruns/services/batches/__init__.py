"""Cancelling many runs: a frozen list, worked off in short portions, each run in the order of `cancellations`."""

from .draft import confirm, create_batch, forget_drafts, freeze, freeze_again, freeze_matching
from .lifecycle import abort, counts_of, follow_unknown, stop
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
    "stop",
    "work",
]
