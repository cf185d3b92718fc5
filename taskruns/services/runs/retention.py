"""How long the mirror keeps ended runs. The audit log is never deleted: it outlives the runs it names."""

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

CHUNK = 500  # runs in one transaction: short enough for other writers to wait
CHUNKS = 20  # in one job, so that other jobs get their turn
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.GONE)


def kept_since() -> datetime:
    return timezone.now() - timedelta(days=settings.RUN_RETENTION_DAYS)


def is_past(seen: WireRun) -> bool:
    """Whether the run is past retention. If it were mirrored again from a list, it would be deleted at once."""
    since = kept_since()
    moments = [moment for moment in (seen.created_at, seen.run_finished_at) if moment is not None]
    return seen.status.is_ended and bool(moments) and max(moments) < since


def forget_old_runs() -> bool:
    """Delete ended runs past retention, with their cancellations. True if there may be more.

    A run stays while one of its cancellations is open or still followed.
    """
    deleted = 0
    for team_id in Team.objects.values_list("pk", flat=True):
        while chunk := _forget_chunk(team_id):
            deleted += chunk
            if deleted >= CHUNK * CHUNKS:
                log.info("runs_forgotten", runs=deleted)
                return True
    if deleted:
        log.info("runs_forgotten", runs=deleted)
    return False


@transaction.atomic
def _forget_chunk(team_id: uuid.UUID) -> int:
    ids = list(_past(team_id).order_by("sorted_at").values_list("pk", flat=True)[:CHUNK])
    if not ids:
        return 0
    # Check again under lock: since the query, a person may have cancelled a run or a reading may have changed it.
    held = _past(team_id).filter(pk__in=ids).order_by("pk").select_for_update()
    found = [run.pk for run in held.only("pk")]
    Run.objects.filter(pk__in=found).delete()
    Team.bump(team_id)
    return len(found)


def _past(team_id: uuid.UUID) -> QuerySet[Run]:
    since = kept_since()
    finished = Q(run_finished_at=None) | Q(run_finished_at__lt=since)
    gone = Q(gone_since=None) | Q(gone_since__lt=since)
    # The board's index serves `rank` and `sorted_at`; the other conditions are checked row by row.
    old = Run.objects.filter(finished, gone, team=team_id, rank=0, sorted_at__lt=since, status__in=ENDED)
    return old.filter(~_is_followed())


def _is_followed() -> Exists:
    """A cancellation of the run is open, or its unknown outcome is still followed."""
    follows = Q(outcome=Outcome.OPEN) | Q(outcome=Outcome.UNKNOWN, followed=True)
    return Exists(Cancellation.objects.filter(follows, run=OuterRef("pk")))


@transaction.atomic
def empty_mirror(team: Team) -> None:
    """Empty the team's mirror. For demos: a new sandbox has replaced the Arize that was mirrored."""
    Run.objects.filter(~_is_followed(), team=team).delete()
    Task.objects.filter(team=team, runs=None).delete()
    keys = Credential.objects.live().filter(team=team)
    keys.update(
        tasks_read_at=None,
        tasks_listed_from=None,
        spaces_listed_from=None,
        listing_at={},
        first_contact_done_at=None,
        backoff_until=None,
        backoff_since=None,
        backoff_reason="",
        failures=0,
        next_refresh_at=timezone.now(),
    )
    Team.bump(team.pk)
