"""A team's API keys: what people do with them (`actions`), tests of what they see (`key_tests`, `sweep`), whether
Arize accepts them (`health`), when they expire (`expiry`), the calls made with them (`client`), how many are allowed
(`budget`), and how long a key rests after Arize failed (`pauses`).
"""

from .actions import add, draft, find_live, is_same_key, replace, replacement, revoke, was_revoked
from .client import forget_old_counts
from .expiry import warn_of_expiring
from .health import (
    KeyState,
    mark_failing,
    note_accepted,
    note_recovered,
    note_rejected,
    state_of,
    try_again,
)
from .key_tests import TestResult, test, try_out
from .sweep import sweep

__all__ = [
    "KeyState",
    "TestResult",
    "add",
    "draft",
    "find_live",
    "forget_old_counts",
    "is_same_key",
    "mark_failing",
    "note_accepted",
    "note_recovered",
    "note_rejected",
    "replace",
    "replacement",
    "revoke",
    "state_of",
    "sweep",
    "test",
    "try_again",
    "try_out",
    "warn_of_expiring",
    "was_revoked",
]
