"""When a key expires: the date is read from Arize if the key may read it, and a warning is recorded in advance."""

from collections.abc import Iterable
from datetime import date, timedelta
from functools import partial

import structlog
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError, ListRepeats
from taskruns.arize.paging import pages
from taskruns.arize.wire import WireApiKey
from taskruns.audit import Actor, EventType, record
from taskruns.models import Credential, Team
from taskruns.services.remote_acts import sum_of_all

log = structlog.get_logger(__name__)

THRESHOLDS = (14, 7, 1)  # days left
PAGES = 3  # of each list of keys
SPACES = 3  # whose service keys are read


def read_expiry(client: ArizeClient, space_ids: Iterable[str]) -> date | None:
    """The day (UTC) on which the client's own key expires. None if Arize does not say; most keys may not ask."""
    for space_id in (None, *list(space_ids)[:SPACES]):
        try:
            found = _own(client, space_id)
        except ListRepeats:
            log.warning("arize_list_repeats", list="api-keys")
            return None  # another key like this one may be missing from the list
        except ArizeError:
            return None
        if found is not None:
            return found.expires_at.date() if found.expires_at else None
    return None


def warn_of_expiring(*, by: Actor) -> int:
    """Warn once per threshold about keys that expire soon. Returns how many warnings were recorded."""
    today = timezone.localdate()
    latest = today + timedelta(days=max(THRESHOLDS))
    keys = Credential.objects.live().filter(expires_on__lte=latest).select_related("team").order_by("pk")
    return sum_of_all(partial(_warn, key, (key.expires_on - today).days, by) for key in keys if key.expires_on)


def _own(client: ArizeClient, space_id: str | None) -> WireApiKey | None:
    """The listed key that looks like the client's own. None unless exactly one does."""
    found = pages(lambda cursor: client.list_api_keys(space_id=space_id, cursor=cursor), most=PAGES)
    alike = [listed for page in found for listed in page.items if client.may_be_own_key(listed)]
    return alike[0] if len(alike) == 1 else None


def _warn(key: Credential, days: int, by: Actor) -> bool:
    threshold = min(threshold for threshold in THRESHOLDS if days <= threshold)
    is_due = Q(expiry_told=None) | Q(expiry_told__gt=threshold)
    with transaction.atomic():
        # Only if `expires_on` is unchanged: a key that was replaced since the query has another date.
        row = Credential.objects.filter(is_due, pk=key.pk, expires_on=key.expires_on, revoked_at=None)
        if not row.update(expiry_told=threshold):
            return False
        Team.bump(key.team_id)
        details = {"expires_on": str(key.expires_on), "days_left": days}
        record(EventType.CREDENTIAL_EXPIRING, "done", by=by, team=key.team, credential=key, details=details)
    log.warning("credential_expiring", key=str(key.pk), days=days)
    return True
