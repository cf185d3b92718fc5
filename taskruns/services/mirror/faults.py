"""That the runs of a task cannot be read: its rows say so, and it is left alone for a while."""

from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from taskruns.arize.errors import ArizeError, RateLimited, Unauthorized
from taskruns.models import Task, Team

# A task whose list fails is one among many: it must not cost calls in every round.
FAILED_WAITS = timedelta(seconds=30)


def note_fault(task: Task, answer: object) -> None:
    """That reading the runs of a task failed, or works again.

    A rejected key and a throttled one are told of the key.
    """
    if isinstance(answer, Unauthorized | RateLimited):
        return
    failed = isinstance(answer, ArizeError)
    if not failed and task.runs_failed_at is None:
        return
    is_news = failed == (task.runs_failed_at is None)
    task.runs_failed_at = timezone.now() if failed else None
    Task.objects.filter(pk=task.pk).update(runs_failed_at=task.runs_failed_at)
    if is_news:
        Team.bump(task.team_id)


def failed_lately() -> Q:
    """Of tasks: those to be left alone."""
    return Q(runs_failed_at__gt=timezone.now() - FAILED_WAITS)
