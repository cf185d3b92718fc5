"""Cancelling many runs: a frozen list, worked off in short portions, each run in the order of `cancellations`."""

from .ending import abort, follow_unknown, stop
from .freezing import confirm, create_batch, forget_drafts, freeze, freeze_again, freeze_matching, start
from .working import due, work

__all__ = [
    "abort",
    "confirm",
    "create_batch",
    "due",
    "follow_unknown",
    "forget_drafts",
    "freeze",
    "freeze_again",
    "freeze_matching",
    "start",
    "stop",
    "work",
]
