"""A team's API keys: what people do with them (`actions`), whether Arize accepts them (`health`), when they expire
(`expiry`), and the calls made with them (`client`).
"""

from .actions import add, find_live, is_same_key, replace, revoke
from .client import forget_old_counts
from .expiry import warn_of_expiring
from .health import KeyState, TestResult, mark_failing, state_of, sweep, test

__all__ = [
    "KeyState",
    "TestResult",
    "add",
    "find_live",
    "forget_old_counts",
    "is_same_key",
    "mark_failing",
    "replace",
    "revoke",
    "state_of",
    "sweep",
    "test",
    "warn_of_expiring",
]
