"""Batches: cancels many runs from a fixed list, or starts them again, in short slices. Each run goes through the steps
of `cancellations` or `triggers`.

`draft` makes the list; `actions` starts, aborts and finishes the batch. `worker` runs the slices: `dispatch` opens
requests at the speed that `pace` allows. What depends on the kind of the batch is behind `kind`: `cancels` with
`results`, and `starts` with `startable`.
"""

from .actions import Held, NothingLeft, abort, confirm, counts_of, create_batch, forget_finished, remove, stop
from .draft import (
    TooManyStarts,
    draft_again,
    draft_matching,
    draft_of,
    draft_retry,
    forget_drafts,
    not_started,
    not_stopped,
)
from .kind import KIND_FACTS, KindFacts
from .pace import is_paused
from .results import follow_unknown, hasten, was_in_vain
from .startable import RESTARTABLE, StartOptions, is_experiment, window_of
from .worker import due, work

__all__ = [
    "KIND_FACTS",
    "RESTARTABLE",
    "Held",
    "KindFacts",
    "NothingLeft",
    "StartOptions",
    "TooManyStarts",
    "abort",
    "confirm",
    "counts_of",
    "create_batch",
    "draft_again",
    "draft_matching",
    "draft_of",
    "draft_retry",
    "due",
    "follow_unknown",
    "forget_drafts",
    "forget_finished",
    "hasten",
    "is_experiment",
    "is_paused",
    "not_started",
    "not_stopped",
    "remove",
    "stop",
    "was_in_vain",
    "window_of",
    "work",
]
