"""Cancelling one run and telling the truth about how it ended: the order is section by section in `cancel.py`."""

from .actions import CancelResult, cancel, counts_now
from .answer import AFTER_OUR_CANCEL, REREAD, Verdict, ask_arize
from .results import End, record_ends, write_ends
from .sweep import GONE, settle_stopping, sweep

__all__ = [
    "AFTER_OUR_CANCEL",
    "GONE",
    "REREAD",
    "CancelResult",
    "End",
    "Verdict",
    "ask_arize",
    "cancel",
    "counts_now",
    "record_ends",
    "settle_stopping",
    "sweep",
    "write_ends",
]
