"""The board: which runs (`matching.py`), in which order and how far (`paging.py`), as which rows (`rows.py`), with what
around them (`choices.py`), on one page (`page.py`).
"""

from .page import as_of, board, etag, live_keys
from .rows import latest_cancellations, row_of
from .seats import Seat
from .staleness import warnings_of

__all__ = [
    "Seat",
    "as_of",
    "board",
    "etag",
    "latest_cancellations",
    "live_keys",
    "row_of",
    "warnings_of",
]
