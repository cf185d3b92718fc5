"""Keeping the mirror like Arize, with few calls: the only reader of lists from Arize.

`schedule` decides when and by whom a key is read, `budget` how much, `round` what and in which order; `reader` makes
the calls; `tasks`, `active_runs`, `task_runs` and `arize_users` say which ones and write the answers. `staleness` says
what of the mirror is old, `lookup` reads one run for a person, `fill` makes up past runs for measuring.
"""

from .fill import fill_runs
from .lookup import find_by_arize_id
from .round import RoundReport, refresh
from .schedule import due, has_attention, note_attention

__all__ = ["RoundReport", "due", "fill_runs", "find_by_arize_id", "has_attention", "note_attention", "refresh"]
