"""Keeping the mirror like Arize, with few calls: the only reader of lists from Arize.

`claims.py` decides who reads when, `budget.py` how much, `rounds.py` what and in which order; `tasks.py`, `active.py`,
`newest.py` (which walks back by `walks.py`) and `users.py` do the reading; `fill.py` makes up past runs for measuring.
"""

from .fill import fill_runs
from .lookup import find_by_arize_id
from .round import RoundReport, refresh
from .schedule import due

__all__ = ["RoundReport", "due", "fill_runs", "find_by_arize_id", "refresh"]
