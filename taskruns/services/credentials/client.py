"""How much each key is used: one count an hour, written once by whoever has called with it.

Counting never gets into the way of what is counted: a count that cannot be written is logged and lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import DatabaseError, transaction
from django.db.models import F, Q
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.models import Credential, KeyUsage

log = structlog.get_logger(__name__)
KEPT = timedelta(days=8)


@contextmanager
def counted(credential: Credential, **how: Any) -> Iterator[ArizeClient]:
    """`credential.connect(**how)`, counted when it is closed. Raises CannotConnect."""
    with credential.connect(**how) as client:
        try:
            yield client
        finally:
            note(credential, client)


def note(credential: Credential, client: ArizeClient) -> None:
    note_calls(credential, calls=client.calls, limited=client.limited)


def note_calls(credential: Credential, *, calls: int, limited: int) -> None:
    """`limited`: how many of the calls were answered 429."""
    if not calls:
        return
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    try:
        with transaction.atomic():
            _add(credential, hour, calls=calls, limited=limited)
    except DatabaseError:
        log.warning("usage_not_counted", key=str(credential.pk), calls=calls, exc_info=True)


def _add(credential: Credential, hour: datetime, *, calls: int, limited: int) -> None:
    row = KeyUsage.objects.filter(credential=credential, hour=hour)
    more = {"calls": F("calls") + calls, "limited": F("limited") + limited}
    if not row.update(**more):
        _, is_new = KeyUsage.objects.get_or_create(
            credential=credential, hour=hour, defaults={"calls": calls, "limited": limited}
        )
        if not is_new:  # another worker was quicker
            row.update(**more)


def forget_old() -> int:
    """Counts that no page shows any more, and those of revoked keys."""
    past = Q(hour__lt=timezone.now() - KEPT) | Q(credential__revoked_at__isnull=False)
    return KeyUsage.objects.filter(past).delete()[0]
