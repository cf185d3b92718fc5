"""The board: which runs (`matching.py`), in which order and how far (`paging.py`), as which rows (`rows.py`), with what
around them (`choices.py`), on one page (`page.py`).
"""

from taskruns.services.runs.matching import matching

from .page import as_of, board, etag, live_keys
from .rows import Seat, latest_cancellations, row_of, warnings_of, why_old

__all__ = [
    "Seat",
    "as_of",
    "board",
    "etag",
    "latest_cancellations",
    "live_keys",
    "matching",
    "row_of",
    "warnings_of",
    "why_old",
]
