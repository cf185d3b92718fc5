"""How many acts one person may do in a while. Each act leaves rows that nobody can delete, in the audit log too.

Nothing that stops a run is counted: a person who is refused here can still cancel, and pull the emergency stop.
"""

from datetime import timedelta

from taskruns.models import User
from taskruns.services.user_errors import UserError

from .sign_in_limits import Limit, has_room

ACTS = Limit("acts", 300, timedelta(minutes=10))
EXPORTS = Limit("exports", 30, timedelta(minutes=10))
RETRY_AFTER = 600  # seconds


class TooManyActs(UserError):
    """Nothing was done. Not recorded: a row for each refusal would be what the limit prevents."""


def spend(person: User, limit: Limit = ACTS) -> None:
    """Count one act of the person. Raises TooManyActs."""
    if not has_room(limit, str(person.pk)):
        minutes = int(limit.window.total_seconds() / 60)
        raise TooManyActs(
            f"You did this kind of thing {limit.attempts} times within {minutes} minutes, which is the limit. "
            "Nothing was changed. Cancelling runs still works. Try again in a few minutes."
        )
