"""How long the mirror leaves a key alone after Arize failed: only briefly while someone waits for it.

A pause that Arize asked for with a 429 is never shortened.
"""

import random
import uuid
from collections.abc import Collection
from datetime import timedelta

from django.utils import timezone

from taskruns.models import Credential

# An emergency stop must find new runs soon after Arize recovers.
STOP_PAUSE = timedelta(seconds=10)
BOARD_PAUSE = timedelta(seconds=30)


def spread(longest: timedelta) -> timedelta:
    """A random pause of half to all of this time: keys that failed together must not return together."""
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


def shorten(team_ids: Collection[uuid.UUID], longest: timedelta) -> int:
    """Let the keys of these teams that pause for longer than this after a failure return within it. Returns how many.

    Also a 5xx with Retry-After: one small call more does no harm.
    """
    now = timezone.now()
    is_longer = Credential.backing_off(now) & Credential.backing_off(now + longest)
    keys = Credential.objects.usable().filter(is_longer, team__in=team_ids, backoff_is_limit=False)
    return sum(_shorten(key_id, longest) for key_id in keys.values_list("pk", flat=True))


def _shorten(key_id: uuid.UUID, longest: timedelta) -> int:
    """Only if the pause in the database is still the longer one: a round may have ended since it was read."""
    until = timezone.now() + spread(longest)
    row = Credential.objects.filter(pk=key_id, backoff_is_limit=False, backoff_until__gt=until)
    return row.update(backoff_until=until)
