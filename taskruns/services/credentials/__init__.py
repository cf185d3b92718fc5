"""A team's Arize keys. `keys.py` keeps them, `health.py` tells whether Arize takes them, `expiry.py` when they end."""

from .actions import CredentialsError, add, find_live, holds, replace, revoke
from .expiry import tell_of_expiring
from .health import KeyState, TestResult, mark_failing, state_of, test

__all__ = [
    "CredentialsError",
    "KeyState",
    "TestResult",
    "add",
    "find_live",
    "holds",
    "mark_failing",
    "replace",
    "revoke",
    "state_of",
    "tell_of_expiring",
    "test",
]
