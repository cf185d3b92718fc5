"""Problems of the whole panel: faults in the audit log, anchors that cannot be written, a missing worker.

All site admins get one mail for each episode. The worker notices the first two. A missing worker cannot report itself,
so the web processes do, while a board is open.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from taskruns.audit.anchors import unwritten_since
from taskruns.models import AuditVerification, Delivery, DeliveryState, Episode, SiteRole, Team, User
from taskruns.models.channels import SiteHappening
from taskruns.models.restores import is_resting
from taskruns.models.stamps import recent
from taskruns.services import heartbeats
from taskruns.services.audit import latest_failed
from taskruns.services.remote_acts import insert_first

log = structlog.get_logger(__name__)
MISSING_AFTER = timedelta(minutes=3)
# A board is open if it was polled within this time. Polls are 5 s apart, and one may be slow.
OPEN_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class SiteFact:
    began_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


def notice_site_events() -> None:
    """For the worker: begin and end the episodes that it can see, and end the one of a missing worker."""
    if is_resting():
        return
    for event, find in _OF_THE_WORKER.items():
        _follow(event, find())
    _follow(SiteHappening.WORKER_MISSING, None)


def notice_missing_worker() -> bool:
    """For the web processes. True if the worker is missing while a board is open: then nobody else sends the mail."""
    if is_resting() or not Team.objects.filter(recent("watched_at", timezone.now(), OPEN_WITHIN)).exists():
        return False
    fact = _missing_worker()
    if fact is not None:
        _follow(SiteHappening.WORKER_MISSING, fact)
    return fact is not None


def _faults() -> SiteFact | None:
    found = latest_failed()
    if found is None or found.result != AuditVerification.Result.FAULTS:
        return None
    return SiteFact(found.finished_at or found.started_at, {"detail": {"faults": found.fault_count}})


def _unwritten() -> SiteFact | None:
    since = unwritten_since()
    return SiteFact(since) if since is not None else None


def _missing_worker() -> SiteFact | None:
    """None before the first worker was ever seen: then the panel is still being set up."""
    if heartbeats.was_seen(heartbeats.WORKER, within=MISSING_AFTER):
        return None
    seen_at = heartbeats.last_seen(heartbeats.WORKER)
    return SiteFact(seen_at) if seen_at is not None else None


_OF_THE_WORKER: Mapping[SiteHappening, Callable[[], SiteFact | None]] = {
    SiteHappening.AUDIT_FAULTS: _faults,
    SiteHappening.ANCHORS_NOT_WRITTEN: _unwritten,
}


def _follow(event: SiteHappening, fact: SiteFact | None) -> None:
    """Begin an episode, unless one is open, or end it."""
    opened = Episode.objects.filter(team=None, event=event, ended_at=None)
    if fact is None:
        opened.update(ended_at=timezone.now())
    elif not opened.exists():
        _begin(event, fact)


@transaction.atomic
def _begin(event: SiteHappening, fact: SiteFact) -> None:
    key = f"site:{event.value}:{fact.began_at.isoformat()}"
    episode = Episode(event=event.value, subject="", key=key, began_at=fact.began_at)
    if insert_first(episode, rivals=Episode.objects.filter(key=key)) is None:
        return  # another process was faster, or this episode was already reported
    log.error("site_event", code=event.value, since=fact.began_at.isoformat())
    if settings.MAILS:
        Delivery.objects.bulk_create(_to_admins(event, fact), ignore_conflicts=True)


def _to_admins(event: SiteHappening, fact: SiteFact) -> list[Delivery]:
    admins = User.objects.filter(is_active=True, site_role=SiteRole.ADMIN)
    return [
        Delivery(
            person=person,
            recipient=f"person:{person.pk}",
            fact=f"{event.value}::{fact.began_at.isoformat()}:trigger",
            event=event.value,
            at=fact.began_at,
            data=fact.data,
            state=DeliveryState.QUEUED,
        )
        for person in admins
    ]
