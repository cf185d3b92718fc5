"""First contact: the first reading of an account. A large one takes minutes, so boards show the progress."""

from django.db.models import QuerySet
from django.utils import timezone

from taskruns.models import Credential, Task


def unread_tasks(credential: Credential) -> QuerySet[Task]:
    """Tasks of this credential whose runs were never listed."""
    return Task.objects.filter(credential=credential, runs_read_at=None).exclude(arize_id="")


def settle(credential: Credential) -> bool:
    """Store at the end of a round whether first contact is done. It starts again if the key gains access to a space.

    True while it is in progress, or while active runs below the newest page of a task are still unread.
    """
    row = Credential.objects.filter(pk=credential.pk)
    if unread_tasks(credential).exists():
        row.filter(first_contact_done_at__isnull=False).update(first_contact_done_at=None)
        return True
    row.filter(first_contact_done_at=None, tasks_read_at__isnull=False).update(first_contact_done_at=timezone.now())
    return Task.objects.filter(credential=credential, active_unread=True, runs_failed_at=None).exists()
