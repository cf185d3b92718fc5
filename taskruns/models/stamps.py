"""Times in the future that make something wait: a claim, a pause, the next reading.

A clock that was ahead and is set back leaves stamps that nobody would reach for hours. A stamp that is further ahead
than its own longest pause is therefore over. Use these functions for every comparison of such a stamp with now.
In a prepared query, now is a slot.
"""

from datetime import datetime, timedelta

from django.db.models import Q

from .prepared import TimeSlot

# The clocks of two machines may differ by this much.
SKEW = timedelta(seconds=5)


def is_ahead(at: datetime | None, now: datetime, longest: timedelta) -> bool:
    """Whether the stamp is still to come, and no further ahead than its `longest` pause."""
    return at is not None and now < at <= now + longest + SKEW


def ahead(column: str, now: datetime | TimeSlot, longest: timedelta) -> Q:
    """`is_ahead` for a query."""
    return Q(**{f"{column}__gt": now, f"{column}__lte": now + longest + SKEW})


def over(column: str, now: datetime | TimeSlot, longest: timedelta) -> Q:
    """The opposite of `ahead`. Also true if the column is null."""
    is_past = Q(**{f"{column}__lte": now}) | Q(**{f"{column}__gt": now + longest + SKEW})
    return Q(**{column: None}) | is_past


def is_recent(at: datetime | None, now: datetime, within: timedelta) -> bool:
    """Whether something happened less than this time before now. Not if the stamp is in the future."""
    return at is not None and now - within < at <= now + SKEW


def recent(column: str, now: datetime | TimeSlot, within: timedelta) -> Q:
    """`is_recent` for a query."""
    return Q(**{f"{column}__gt": now - within, f"{column}__lte": now + SKEW})


def long_ago(column: str, now: datetime | TimeSlot, within: timedelta, *, skew: timedelta = SKEW) -> Q:
    """The opposite of `recent`. Also true if the column is null."""
    is_old = Q(**{f"{column}__lte": now - within}) | Q(**{f"{column}__gt": now + skew})
    return Q(**{column: None}) | is_old
