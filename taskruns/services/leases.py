"""Leases limit exports: one per person and few on the whole site, so that web threads stay free for other requests.

The holder extends its lease while it sends. A lease expires if its process dies or the client stops reading.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.models import Lease, User
from taskruns.models.stamps import over
from taskruns.services.user_errors import UserError

EXPORT = "export"
PLACES = {EXPORT: 2}  # on the whole site; each person has at most one
LIFETIME = timedelta(seconds=60)
EXTENDED_EVERY = timedelta(seconds=5)
RETRY_AFTER = 30  # seconds


class Busy(UserError):
    """No place is free. Nothing was started."""


@dataclass(slots=True)
class HeldLease:
    """A lease that this request holds. Not thread-safe."""

    token: uuid.UUID
    until: datetime
    still_may: Callable[[], bool]

    def extend(self) -> bool:
        """Extend the lease, with at most one write in five seconds. False if it or the right to it was lost."""
        now = timezone.now()
        if self.until - now > LIFETIME - EXTENDED_EVERY:
            return True
        if not self.still_may():
            return False
        mine = Lease.objects.filter(token=self.token)
        self.until = now + LIFETIME
        return bool(mine.update(until=self.until))

    def release(self) -> None:
        Lease.objects.filter(token=self.token).update(person=None, token=None, until=timezone.now())


def acquire(kind: str, person: User, *, still_may: Callable[[], bool] = lambda: True) -> HeldLease:
    """Take a free place of this kind. `still_may` is asked before each extension. Raises Busy."""
    _create_places(kind)
    now = timezone.now()
    held = HeldLease(uuid.uuid4(), now + LIFETIME, still_may)
    is_over = over("until", now, LIFETIME)
    is_free = Q(person=None) | is_over
    places = Lease.objects.filter(kind=kind, place__lte=PLACES[kind])
    Lease.objects.filter(is_over, kind=kind, person__isnull=False).update(person=None, token=None)
    try:
        with transaction.atomic():
            for place in places.filter(is_free).values_list("place", flat=True):
                mine = places.filter(is_free, place=place)
                if mine.update(person=person, token=held.token, until=held.until):
                    return held
    except IntegrityError:
        raise Busy("Another export of yours is still running. Wait until it is finished, then try again.") from None
    raise Busy("Too many exports are running at the moment. Nothing was started. Try again in a minute.")


def _create_places(kind: str) -> None:
    wanted = range(1, PLACES[kind] + 1)
    if Lease.objects.filter(kind=kind, place__in=wanted).count() < len(wanted):
        new = [Lease(kind=kind, place=place, until=timezone.now()) for place in wanted]
        Lease.objects.bulk_create(new, ignore_conflicts=True)
