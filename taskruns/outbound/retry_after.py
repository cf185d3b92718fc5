"""How long a server asks its clients to wait."""

import email.utils
import math
from datetime import UTC, datetime

LONGEST_RETRY_AFTER = 86_400  # seconds; a longer wait is a server's mistake


def read_retry_after(value: str | None, *, now: datetime | None = None) -> int | None:
    """Whole seconds from a number or an HTTP date, rounded up; 0 if in the past, None if unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value, now or datetime.now(tz=UTC))
    if not math.isfinite(seconds):
        return None
    return min(max(math.ceil(seconds), 0), LONGEST_RETRY_AFTER)


def _seconds_until(http_date: str, now: datetime) -> float:
    try:
        moment = email.utils.parsedate_to_datetime(http_date)
    except (ValueError, OverflowError):
        return math.nan
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
