"""Sends deliveries. Each is claimed before it is sent. The claim of a killed worker expires, and the next attempt says
that it may be a repetition.

After a failure, the channel rests, and so does the delivery: 5 s at first, an hour at last. So a receiver that hangs
costs one attempt per rest, however many messages wait for it.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from time import monotonic

import structlog
from django.db import transaction
from django.db.models import F, Q, UUIDField
from django.utils import timezone

from taskruns.models import Channel, Delivery, DeliveryState
from taskruns.models.channels import SUMMARY, TEST, TO_SEND
from taskruns.models.prepared import Prepared, Slot, TimeSlot
from taskruns.models.restores import is_resting
from taskruns.models.stamps import is_recent, over
from taskruns.services import key_ring

log = structlog.get_logger(__name__)
CLAIM = timedelta(seconds=30)  # longer than an attempt can take
SLICE = 2.0  # seconds; then other channels get their turn
HEALTH_NOTED_EVERY = timedelta(seconds=5)
FIRST_REST, LONGEST_REST = timedelta(seconds=5), timedelta(hours=1)


class Trouble(StrEnum):
    """Why an attempt failed, besides the failures of `outbound`."""

    STATUS = "status"  # the receiver answered with an error
    NOT_ALLOWED = "not_allowed"  # the address is no longer allowed
    NOT_DECRYPTABLE = "not_decryptable"
    MAIL = "mail"  # the mail server did not take it
    NO_MAIL = "no_mail"  # EMAIL_URL is not set any more
    NOBODY = "nobody"  # everyone it was for has left the team


@dataclass(frozen=True, slots=True)
class Post:
    """A request to a webhook. `body`: JSON."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """`trouble`: empty if it was sent. `may_have_arrived`: there was no answer, so the next attempt may repeat it.

    `retry_after`: seconds that the receiver asks to wait.
    """

    trouble: str = ""
    status: int | None = None
    may_have_arrived: bool = False
    retry_after: int | None = None


# Words a message for the kind of its channel.
Worder = Callable[[Delivery], Post | Mail]
Sender = Callable[[Delivery, Post | Mail], Attempt]


def due(now: datetime) -> list[uuid.UUID | None]:
    """The channels with messages to send now."""
    if is_resting():
        return []
    rested = Q(channel=None) | over("channel__rests_until", now, LONGEST_REST)
    return list(Delivery.objects.filter(rested, _is_due(now)).order_by().values_list("channel", flat=True).distinct())


def failed_last(channel_ids: Iterable[uuid.UUID | None]) -> set[uuid.UUID | None]:
    """Those whose last message could not be sent. They may be silent again, and must not delay the others."""
    rows = Channel.objects.filter(pk__in=[pk for pk in channel_ids if pk is not None], failures__gt=0)
    return set(rows.values_list("pk", flat=True))


def send(channel_id: uuid.UUID | None, word: Worder, sender: Sender) -> bool:
    """Send what is due on this channel, for a short time. True if there is more."""
    if is_resting() or key_ring.problem():
        return False
    ends = monotonic() + SLICE
    delivery = _claim(channel_id)
    while delivery is not None:
        if _drop_if_silent(delivery):
            delivery = _claim(channel_id)
            continue
        attempt = sender(delivery, word(delivery))
        # One transaction a message, because each takes the disk some milliseconds.
        with transaction.atomic():
            _note(delivery, attempt)
            if attempt.trouble and attempt.trouble != Trouble.NOBODY:
                return False  # of the others to people, none waits for a leaver's
            if monotonic() >= ends:
                return True
            delivery = _claim(channel_id)
    return False


def send_claimed(delivery_id: uuid.UUID, word: Worder, sender: Sender) -> None:
    """Send a delivery that the caller has claimed when creating it."""
    delivery = _loaded(delivery_id)
    attempt = sender(delivery, word(delivery))
    with transaction.atomic():
        _note(delivery, attempt)


def _loaded(delivery_id: uuid.UUID) -> Delivery:
    return _by_id().rows(pk=delivery_id)[0]


@cache
def _by_id() -> Prepared[Delivery]:
    """Each message needs it."""
    rows = Delivery.objects.select_related("channel", "team", "person", "run").defer("run__as_read")
    return Prepared(rows.filter(pk=Slot("pk", UUIDField())))


_Waiting = tuple[uuid.UUID, str, datetime | None]


def _waiting(channel_id: uuid.UUID | None, now: datetime) -> list[_Waiting]:
    """The next deliveries. Another worker may claim some of them first."""
    values = {} if channel_id is None else {"channel": channel_id}
    return _next(to_people=channel_id is None).rows(now=now, most=10, **values)


@cache
def _next(*, to_people: bool) -> Prepared[_Waiting]:
    """Each message needs it."""
    rested = over("channel__rests_until", TimeSlot(), LONGEST_REST)
    whose = Q(channel=None) if to_people else Q(rested, channel=Slot("channel", UUIDField()))
    waiting = Delivery.objects.filter(whose, _is_due(TimeSlot())).order_by("next_try_at", "created_at")
    return Prepared(waiting.values_list("pk", "state", "claimed_until"))


def _is_due(now: datetime | TimeSlot) -> Q:
    # One that never failed waits for nothing, whatever a wrong clock wrote.
    waiting = Q(state=DeliveryState.QUEUED) | Q(state=DeliveryState.FAILED) & over("next_try_at", now, LONGEST_REST)
    orphaned = Q(state=DeliveryState.SENDING) & over("claimed_until", now, CLAIM)
    # The states are redundant, but the index has this condition.
    return Q(state__in=TO_SEND) & (waiting | orphaned)


def _claim(channel_id: uuid.UUID | None) -> Delivery | None:
    """The next delivery, which is now ours. None if there is none, or the channel rests."""
    now = timezone.now()
    for pk, state, until in _waiting(channel_id, now):
        mine = Delivery.objects.filter(pk=pk, state=state, claimed_until=until)
        is_repeat = {"is_repeat": True} if state == DeliveryState.SENDING else {}
        claim = {"state": DeliveryState.SENDING, "claimed_until": now + CLAIM, "attempts": F("attempts") + 1}
        if mine.update(**claim, **is_repeat):
            return _loaded(pk)
    return None


def _drop_if_silent(delivery: Delivery) -> bool:
    """The channel was muted or turned off while this message was being made."""
    channel = delivery.channel
    if delivery.is_resolve:
        return _drop_if_open_again(delivery)
    if channel is None or delivery.event == TEST or not channel.is_silent(timezone.now()):
        return False
    Channel.objects.filter(pk=channel.pk).update(missed=F("missed") + 1)
    Delivery.objects.filter(Q(pk=delivery.pk) | Q(summary=delivery.pk)).delete()
    return True


def _drop_if_open_again(delivery: Delivery) -> bool:
    """Of an end that could not be sent for long: the same incident began anew and was sent, so it must stay open."""
    anew = Delivery.objects.filter(channel=delivery.channel_id, event=delivery.event, is_open=True)
    again = anew.filter(state=DeliveryState.SENT, created_at__gt=delivery.created_at, data__subject=delivery.subject)
    return again.exists() and bool(Delivery.objects.filter(pk=delivery.pk).delete())


def _note(delivery: Delivery, attempt: Attempt) -> None:
    """Write what became of an attempt, unless another worker has taken the delivery over."""
    now = timezone.now()
    mine = Delivery.objects.filter(pk=delivery.pk, state=DeliveryState.SENDING, claimed_until=delivery.claimed_until)
    seen = {"status": attempt.status, "failure": attempt.trouble, "claimed_until": None}
    if not attempt.trouble:
        is_mine = mine.update(state=DeliveryState.SENT, sent_at=now, **seen)
        if is_mine and delivery.event == SUMMARY:
            Delivery.objects.filter(summary=delivery.pk).update(state=DeliveryState.SENT, sent_at=now)
        _note_health(delivery, attempt, now)
        return
    repeats = {"is_repeat": True} if attempt.may_have_arrived else {}
    mine.update(state=DeliveryState.FAILED, next_try_at=now + _rest(delivery.attempts, attempt), **seen, **repeats)
    _note_health(delivery, attempt, now)
    log.warning(
        "message_not_sent",
        channel=str(delivery.channel_id),
        message=str(delivery.pk),
        why=attempt.trouble,
        status=attempt.status,
        attempt=delivery.attempts,
    )


def _note_health(delivery: Delivery, attempt: Attempt, now: datetime) -> None:
    if delivery.channel is None:
        return
    row = Channel.objects.filter(pk=delivery.channel.pk)
    if not attempt.trouble and not delivery.channel.failures and _is_noted(delivery.channel, now):
        return
    if not attempt.trouble:
        row.update(last_sent_at=now, failing_since=None, failure="", failure_status=None, failures=0, rests_until=None)
        return
    failures = delivery.channel.failures + 1
    row.update(
        failures=failures,
        rests_until=now + _rest(failures, attempt),
        failure=attempt.trouble,
        failure_status=attempt.status,
    )
    row.filter(failing_since=None).update(failing_since=now)


def _is_noted(channel: Channel, now: datetime) -> bool:
    """Whether a message was sent a moment ago."""
    return is_recent(channel.last_sent_at, now, HEALTH_NOTED_EVERY)


def _rest(failures: int, attempt: Attempt) -> timedelta:
    asked = min(timedelta(seconds=attempt.retry_after or 0), LONGEST_REST)
    return max(rest_after(failures), asked)


def rest_after(failures: int) -> timedelta:
    """5 s, then twice as long each time, at most an hour."""
    doubled: timedelta = FIRST_REST * 2 ** min(failures - 1, 20)
    return min(doubled, LONGEST_REST)
