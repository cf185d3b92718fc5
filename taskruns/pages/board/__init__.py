"""The board: which streams of runs (`plan.py`), read page by page (`keyset.py`), as which rows (`rows.py`), with what
around them (`choices.py`), on one page (`page.py`).
"""

from .page import as_of, board, etag, live_keys
from .rows import latest_cancellations, row_of

__all__ = [
    "as_of",
    "board",
    "etag",
    "latest_cancellations",
    "live_keys",
    "row_of",
]
