"""Cancels one run and finds out the true outcome. `actions.py` lists the steps in order."""

from .actions import CancelResult, cancel, counts_now, holder_of, is_needed
from .answer import Answer, ask_arize, reread
from .results import Result, locked_runs, record_results, write_results
from .sweep import Followed, follow, sweep
from .waiting import wait_for
from .worker import has_unsent, send_unsent

__all__ = [
    "Answer",
    "CancelResult",
    "Followed",
    "Result",
    "ask_arize",
    "cancel",
    "counts_now",
    "follow",
    "has_unsent",
    "holder_of",
    "is_needed",
    "locked_runs",
    "record_results",
    "reread",
    "send_unsent",
    "sweep",
    "wait_for",
    "write_results",
]
