"""Keeps the mirror in step with Arize, with few calls. Only this package reads lists from Arize.

`schedule` decides which worker reads with a credential and when; `budget` limits the calls; `round` sets their order;
`reader` makes them. `tasks`, `active_runs`, `active_unread`, `task_runs` and `arize_users` choose what to read, and
write the answers. `first_contact` reads a new account, `nudges` make a round begin at once, `staleness` finds what is
out of date, `lookup` reads one run for a person, `fill` makes up past runs for benchmarks.
"""

from .fill import fill_runs
from .lookup import find_by_arize_id
from .round import RoundReport, refresh
from .schedule import due, failed_last, give_back_claims, has_attention, note_attention

__all__ = [
    "RoundReport",
    "due",
    "failed_last",
    "fill_runs",
    "find_by_arize_id",
    "give_back_claims",
    "has_attention",
    "note_attention",
    "refresh",
]
