"""A team's API keys: what people do with them (`actions`), whether Arize accepts them (`health`), when they end
(`expiry`), and the calls that are made with them (`client`).
"""

from .actions import add, find_live, holds, replace, revoke
from .client import forget_old_counts
from .expiry import tell_of_expiring
from .health import KeyState, TestResult, mark_failing, state_of, sweep, test

__all__ = [
    "KeyState",
    "TestResult",
    "add",
    "find_live",
    "forget_old_counts",
    "holds",
    "mark_failing",
    "replace",
    "revoke",
    "state_of",
    "sweep",
    "tell_of_expiring",
    "test",
]
