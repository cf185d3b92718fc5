"""How long the mirror keeps runs that have ended. The audit log is never touched: it outlives what it speaks of."""

import uuid
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from taskruns.arize.wire import WireRun
from taskruns.models import Cancellation, Credential, Outcome, Run, Status, Task, Team

log = structlog.get_logger(__name__)

PORTION = 500  # runs a transaction: short enough for everybody who waits to write
PORTIONS = 20  # a job: then others have their turn
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.GONE)


def kept_since() -> datetime:
    return timezone.now() - timedelta(days=settings.RUN_RETENTION_DAYS)


def is_past(seen: WireRun) -> bool:
    """Would be deleted at once if it were mirrored: so a list that still holds it does not bring it back."""
    since = kept_since()
    moments = [moment for moment in (seen.created_at, seen.run_finished_at) if moment is not None]
    return seen.status.is_ended and bool(moments) and max(moments) < since


def forget_old_runs() -> bool:
    """Delete ended runs that are past their time, and the cancellations of them. True if there may be more.

    A run whose cancellation has no end yet, or is still followed, stays until that is told.
    """
    deleted = 0
    for team_id in Team.objects.values_list("pk", flat=True):
        while portion := _forget_portion(team_id):
            deleted += portion
            if deleted >= PORTION * PORTIONS:
                log.info("runs_forgotten", runs=deleted)
                return True
    if deleted:
        log.info("runs_forgotten", runs=deleted)
    return False


@transaction.atomic
def _forget_portion(team_id: uuid.UUID) -> int:
    ids = list(_past(team_id).order_by("sorted_at").values_list("pk", flat=True)[:PORTION])
    if not ids:
        return 0
    # Asked once more under lock: a person may have pressed Cancel, or Arize told something new, since the list.
    held = _past(team_id).filter(pk__in=ids).order_by("pk").select_for_update()
    found = [run.pk for run in held.only("pk")]
    Run.objects.filter(pk__in=found).delete()
    Team.bump(team_id)
    return len(found)


def _past(team_id: uuid.UUID) -> QuerySet[Run]:
    since = kept_since()
    finished = Q(run_finished_at=None) | Q(run_finished_at__lt=since)
    gone = Q(gone_since=None) | Q(gone_since__lt=since)
    # `rank` and `sorted_at` are what the index of the board can look up; the rest is read row by row.
    old = Run.objects.filter(finished, gone, team=team_id, rank=0, sorted_at__lt=since, status__in=ENDED)
    return old.filter(~_is_followed())


def _is_followed() -> Exists:
    """Somebody's cancel of the run has no end yet, or one that is still looked for."""
    follows = Q(outcome=Outcome.OPEN) | Q(outcome=Outcome.UNKNOWN, followed=True)
    return Exists(Cancellation.objects.filter(follows, run=OuterRef("pk")))


@transaction.atomic
def forget_world(team: Team) -> None:
    """Empty the team's mirror, because its Arize is no more and another stands in its place: in a demo."""
    Run.objects.filter(~_is_followed(), team=team).delete()
    Task.objects.filter(team=team, runs=None).delete()
    keys = Credential.objects.live().filter(team=team)
    keys.update(
        tasks_read_at=None,
        listing_at={},
        first_contact_done_at=None,
        backoff_until=None,
        backoff_reason="",
        failures=0,
        next_refresh_at=timezone.now(),
    )
    Team.bump(team.pk)
