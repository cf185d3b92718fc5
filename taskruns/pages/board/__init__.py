"""The board: the streams of runs (`plan.py`) are read page by page (`keyset.py`) and become rows (`rows.py`). With the
filters around them (`choices.py`) and the numbers and links above them (`counts.py`, `chips.py`) they make up a page
(`page.py`).
"""

from .page import as_of, board, etag, known_etag, read_ages
from .rows import latest_cancellations, row_of

__all__ = [
    "as_of",
    "board",
    "etag",
    "known_etag",
    "latest_cancellations",
    "read_ages",
    "row_of",
]
