"""Gives up messages that could not be sent within a day, and deletes old ones."""

import uuid
from datetime import timedelta
from functools import partial

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import Channel, Delivery, DeliveryState
from taskruns.models.restores import is_resting
from taskruns.models.stamps import over
from taskruns.services.remote_acts import sum_of_all

from .actions import target_of
from .sending import CLAIM

GIVEN_UP_AFTER = timedelta(hours=24)
KEPT = timedelta(days=30)
CHUNK = 1_000
CLOCK = Actor.job("channels")


def give_up_old() -> int:
    """One audit row for each channel. Returns how many messages were given up."""
    if is_resting():
        return 0
    channels = list(_late().order_by().values_list("channel", flat=True).distinct())
    return sum_of_all(partial(_give_up, channel_id) for channel_id in channels)


@transaction.atomic
def _give_up(channel_id: uuid.UUID | None) -> int:
    late = list(_late().filter(channel=channel_id).select_for_update(of=("self",), no_key=True).order_by("pk")[:CHUNK])
    ids = [row.pk for row in late]
    Delivery.objects.filter(Q(pk__in=ids) | Q(summary__in=ids)).update(state=DeliveryState.GIVEN_UP, claimed_until=None)
    if channel_id is not None and late:
        channel = Channel.objects.select_related("team").get(pk=channel_id)
        last = max(late, key=lambda row: row.next_try_at)
        details = {"messages": len(late), "why": last.failure, "http_status": last.status}
        record(
            EventType.NOTIFY_GIVEN_UP, "done", by=CLOCK, team=channel.team, target=target_of(channel), details=details
        )
    return len(late)


def forget_old() -> bool:
    """Delete a chunk of old deliveries. True if there may be more."""
    old = Delivery.objects.filter(created_at__lt=timezone.now() - KEPT).order_by("created_at")
    ids = list(old.values_list("pk", flat=True)[:CHUNK])
    Delivery.objects.filter(pk__in=ids).delete()
    return len(ids) == CHUNK


def _late() -> models.QuerySet[Delivery]:
    now = timezone.now()
    unclaimed = ~Q(state=DeliveryState.SENDING) | over("claimed_until", now, CLAIM)
    unsent = Delivery.objects.filter(state__in=[DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.FAILED])
    return unsent.filter(unclaimed, created_at__lt=now - GIVEN_UP_AFTER)
