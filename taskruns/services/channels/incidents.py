"""Tells a recipient that keeps incidents when one is over: the run has ended, the key works again, the stop is over.

Only after the message that opened the incident was sent: the other way round, it would stay open.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from taskruns.models import Credential, Delivery, DeliveryState, EmergencyStop, Episode, Happening, Run
from taskruns.models.channels import OF_RUNS, TEST

_STOPS = (Happening.STOP_PULL, Happening.STOP_EXPIRING)


def has_incidents() -> bool:
    return Delivery.objects.filter(is_open=True).exists()


def resolve() -> None:
    """Make a message for each incident that is over."""
    now, all_opened = timezone.now(), list(_opened())
    active = _active_runs(all_opened)
    for opened in all_opened:
        if _is_over(opened, now, active):
            _resolve(opened, now)
    Delivery.objects.filter(is_open=True, state=DeliveryState.GIVEN_UP).update(is_open=False)


def _opened() -> QuerySet[Delivery]:
    sent = Delivery.objects.filter(is_open=True, state=DeliveryState.SENT, channel__is_on=True)
    return sent.filter(channel__removed_at=None).order_by("created_at")


def _active_runs(all_opened: Iterable[Delivery]) -> set[str]:
    """The ids of those that have not ended, in one query: a team may have many incidents."""
    ids = [opened.subject for opened in all_opened if opened.event in OF_RUNS]
    return {str(pk) for pk in Run.objects.filter(pk__in=ids, ended_at=None).values_list("pk", flat=True)}


def _is_over(opened: Delivery, now: datetime, active: set[str]) -> bool:
    if opened.event == TEST:
        return True
    if opened.event in _STOPS:
        return not EmergencyStop.objects.holding(now).filter(pk=opened.subject).exists()
    if opened.event == Happening.CREDENTIAL_FAILING:
        return not Credential.objects.live().filter(pk=opened.subject, failing_since__isnull=False).exists()
    if opened.event == Happening.ARIZE_UNREACHABLE:
        return not Episode.objects.filter(event=opened.event, subject=opened.subject, ended_at=None).exists()
    return opened.subject not in active


@transaction.atomic
def _resolve(opened: Delivery, now: datetime) -> None:
    if not Delivery.objects.filter(pk=opened.pk, is_open=True).update(is_open=False):
        return  # another worker was faster
    Delivery.objects.create(
        team_id=opened.team_id,
        channel_id=opened.channel_id,
        rule_id=opened.rule_id,
        recipient=opened.recipient,
        fact=f"{opened.fact.removesuffix(':trigger')}:resolve",
        event=opened.event,
        run_id=opened.run_id,
        at=now,
        data=opened.data,
        state=DeliveryState.QUEUED,
    )
