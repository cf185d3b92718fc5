"""When a key ends: read from Arize where the key may, and told in time, once for each step."""

from collections.abc import Iterable
from datetime import date, timedelta

import structlog
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError
from taskruns.arize.paging import pages
from taskruns.arize.wire import WireApiKey
from taskruns.audit import Actor, EventType, record
from taskruns.models import Credential, Team

log = structlog.get_logger(__name__)

THRESHOLDS = (14, 7, 1)  # days before the end
PAGES = 3  # of one list of keys
SPACES = 3  # whose service keys are looked through


def read_end(client: ArizeClient, space_ids: Iterable[str]) -> date | None:
    """The day (UTC) on which the client's own key ends, as far as Arize tells it: most service keys may not ask."""
    for space_id in (None, *list(space_ids)[:SPACES]):
        try:
            found = _own(client, space_id)
        except ArizeError:
            return None
        if found is not None:
            return found.expires_at.date() if found.expires_at else None
    return None


def tell_of_expiring(*, by: Actor) -> int:
    """Record and log each key whose end has come nearer than a step that was not told yet. The number told."""
    today = timezone.localdate()
    latest = today + timedelta(days=max(THRESHOLDS))
    keys = Credential.objects.live().filter(expires_on__lte=latest).select_related("team").order_by("pk")
    return sum(_tell(key, (key.expires_on - today).days, by) for key in keys if key.expires_on)


def _own(client: ArizeClient, space_id: str | None) -> WireApiKey | None:
    """The one listed key that looks like the client's; None if there is none, or more than one looks so."""
    found = pages(lambda cursor: client.list_api_keys(space_id=space_id, cursor=cursor), most=PAGES)
    alike = [listed for page in found for listed in page.items if client.may_be_own_key(listed)]
    return alike[0] if len(alike) == 1 else None


def _tell(key: Credential, days: int, by: Actor) -> bool:
    step = min(threshold for threshold in THRESHOLDS if days <= threshold)
    untold = Q(expiry_told=None) | Q(expiry_told__gt=step)
    with transaction.atomic():
        # As it was read: a key that was replaced meanwhile has another end.
        row = Credential.objects.filter(untold, pk=key.pk, expires_on=key.expires_on, revoked_at=None)
        if not row.update(expiry_told=step):
            return False
        Team.bump(key.team_id)
        details = {"expires_on": str(key.expires_on), "days_left": days}
        record(EventType.CREDENTIAL_EXPIRING, "done", by=by, team=key.team, credential=key, details=details)
    log.warning("credential_expiring", key=str(key.pk), days=days)
    return True
