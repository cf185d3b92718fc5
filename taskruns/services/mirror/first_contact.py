"""The first reading of a large account: it takes minutes under the rate limit, so people see how far it is."""

from django.db.models import QuerySet
from django.utils import timezone

from taskruns.models import Credential, Task


def unread_tasks(credential: Credential) -> QuerySet[Task]:
    """Tasks of this key whose runs were never listed."""
    return Task.objects.filter(credential=credential, runs_read_at=None).exclude(arize_id="")


def settle(credential: Credential) -> bool:
    """Note at the end of a round whether first contact is over, or begins again: a key may be let into a large space.

    True while it goes on, or active runs below the newest page of a task are still to be read.
    """
    row = Credential.objects.filter(pk=credential.pk)
    if unread_tasks(credential).exists():
        row.filter(first_contact_done_at__isnull=False).update(first_contact_done_at=None)
        return True
    row.filter(first_contact_done_at=None, tasks_read_at__isnull=False).update(first_contact_done_at=timezone.now())
    return Task.objects.filter(credential=credential, active_unread=True, runs_failed_at=None).exists()
