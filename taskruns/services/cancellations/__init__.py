"""Cancels one run and finds out the true outcome. `actions.py` lists the steps in order."""

from .actions import CancelResult, cancel, counts_now, is_needed
from .answer import Answer, ask_arize, reread
from .results import Result, record_results, write_results
from .sweep import settle_stopping, sweep

__all__ = [
    "Answer",
    "CancelResult",
    "Result",
    "ask_arize",
    "cancel",
    "counts_now",
    "is_needed",
    "record_results",
    "reread",
    "settle_stopping",
    "sweep",
    "write_results",
]
