"""A team's Arize keys. `keys.py` keeps them, `health.py` tells whether Arize takes them, `expiry.py` when they end."""

from .expiry import tell_of_expiring
from .health import ResultNotWritten, TestResult, mark_failing, test
from .keys import CredentialsError, add, find_live, holds, replace, revoke

__all__ = [
    "CredentialsError",
    "ResultNotWritten",
    "TestResult",
    "add",
    "find_live",
    "holds",
    "mark_failing",
    "replace",
    "revoke",
    "tell_of_expiring",
    "test",
]
