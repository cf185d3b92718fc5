"""Why rows are old, before a round and after it: open boards ask again only when they are told that this changed."""

import uuid

from django.utils import timezone

from taskruns.models import Run
from taskruns.services.board import why_old

# What they are made of.
_COLUMNS = (
    *("status", "observed_at", "task__runs_failed_at"),
    *(f"task__credential__{name}" for name in ("name", "revoked_at", "failing_since", "failing_reason")),
    *(f"task__credential__{name}" for name in ("backoff_until", "backoff_reason", "last_good_at")),
)


def reasons(credential_id: uuid.UUID) -> dict[uuid.UUID, str]:
    """By run, for those active runs of the key whose state is not of this moment."""
    now = timezone.now()
    runs = Run.objects.filter(rank=1, task__credential=credential_id).select_related("task__credential")
    return {run.pk: why for run in runs.only(*_COLUMNS) if (why := why_old(run, now))}
