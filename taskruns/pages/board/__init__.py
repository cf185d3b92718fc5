"""The board: the streams of runs (`plan.py`) are read page by page (`keyset.py`) and become rows (`rows.py`). With the
filters around them (`choices.py`) they make up a page (`page.py`).
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
