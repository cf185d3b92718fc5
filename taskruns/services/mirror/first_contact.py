"""First contact: the first reading of an account. A large one takes minutes, so boards show the progress."""

from functools import cache

from django.db.models import F, Q, UUIDField
from django.utils import timezone

from taskruns.models import Credential, Task
from taskruns.models.prepared import Prepared, Slot
from taskruns.models.tasks import HAS_GAP, STILL_LISTED

_UNREAD = Q(runs_read_at=None) & ~Q(arize_id="")
_ACTIVE_UNREAD = Q(active_unread=True, runs_failed_at=None)
_BACKFILL = HAS_GAP & STILL_LISTED & Q(runs_failed_at=None)


def unread_tasks(credential: Credential) -> list[Task]:
    """Tasks of this credential whose runs were never listed. The one with the latest run comes first."""
    return _unread().rows(credential=credential.pk)


def has_unread_tasks(credential: Credential) -> bool:
    return _unread().exists(credential=credential.pk)


def settle(credential: Credential) -> bool:
    """Store at the end of a round whether first contact is done. It starts again if the key gains access to a space.

    True while it is in progress, while active runs below the newest page of a task are still unread, or while an
    incomplete backfill can continue now.
    """
    has_more = _unfinished().exists(credential=credential.pk)
    row = Credential.objects.filter(pk=credential.pk)
    if has_more and has_unread_tasks(credential):
        row.filter(first_contact_done_at__isnull=False).update(first_contact_done_at=None)
    elif credential.first_contact_done_at is None:
        row.filter(first_contact_done_at=None, tasks_read_at__isnull=False).update(first_contact_done_at=timezone.now())
    return has_more


@cache
def _unread() -> Prepared[Task]:
    mine = Task.objects.filter(_UNREAD, credential=Slot("credential", UUIDField())).defer("as_read")
    return Prepared(mine.order_by(F("last_run_at").desc(nulls_last=True), "pk"))


@cache
def _unfinished() -> Prepared[Task]:
    mine = Task.objects.filter(credential=Slot("credential", UUIDField()))
    return Prepared(mine.filter(_UNREAD | _ACTIVE_UNREAD | _BACKFILL))
