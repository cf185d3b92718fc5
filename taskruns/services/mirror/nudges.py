"""Something outside says that a task has news: read it in the next round, and begin that at once."""

import uuid
from collections.abc import Sequence

from django.utils import timezone

from taskruns.models import Credential, Task, Team


def nudge(team: Team, ids: Sequence[str]) -> list[uuid.UUID]:
    """Read the tasks among these Arize ids now. Returns the credentials to wake.

    Without a known one, the list of tasks is read: the task may be new.
    """
    tasks = Task.objects.filter(team=team, arize_id__in=ids).exclude(arize_id="")
    keys = Credential.objects.usable().filter(team=team)
    # As if `last_run_at` had changed since the last reading. Pauses after failures and the rate limit still hold.
    tasks.filter(last_run_at=None).update(last_run_at=timezone.now())
    if tasks.update(runs_read_to=None):
        keys = keys.filter(pk__in=tasks.values("credential"))
    else:
        keys.update(tasks_read_at=None)
    keys.update(next_refresh_at=timezone.now())
    return list(keys.values_list("pk", flat=True))
