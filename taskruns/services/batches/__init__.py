"""Batches: cancels many runs from a fixed list, in short slices. Each run goes through the steps of `cancellations`.

`draft` makes the list; `lifecycle` starts, aborts and finishes the batch. `worker` runs the slices: `dispatch` opens
cancellations at the speed that `pace` allows, and `results` writes their outcomes.
"""

from .draft import draft_matching, draft_of, draft_retry, forget_drafts, not_stopped
from .lifecycle import abort, confirm, counts_of, create_batch, stop
from .results import follow_unknown
from .worker import due, work

__all__ = [
    "abort",
    "confirm",
    "counts_of",
    "create_batch",
    "draft_matching",
    "draft_of",
    "draft_retry",
    "due",
    "follow_unknown",
    "forget_drafts",
    "not_stopped",
    "stop",
    "work",
]
