"""The people and keys behind the user ids that runs carry, as far as Arize tells their names."""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from taskruns.arize.wire import WireUser
from taskruns.models import ArizeUser, Run

# People are renamed, get rights and leave; Arize is asked again after this time.
ASKED_EVERY = timedelta(days=1)


def note(team_id: uuid.UUID, endpoint: str, arize_ids: Iterable[str]) -> None:
    """Remember ids that runs carry, so that the mirror asks for their names. In one order, as locks are taken."""
    rows = [ArizeUser(team_id=team_id, endpoint=endpoint, arize_id=id_) for id_ in sorted(set(arize_ids))]
    if rows:
        ArizeUser.objects.bulk_create(rows, ignore_conflicts=True)


def waiting(team_id: uuid.UUID, endpoint: str, *, now: datetime) -> QuerySet[ArizeUser]:
    """Those never asked for, or not for a day; the never asked first."""
    unasked = Q(read_at=None) | Q(read_at__lte=now - ASKED_EVERY)
    mine = ArizeUser.objects.filter(unasked, team=team_id, endpoint=endpoint)
    return mine.order_by(F("read_at").asc(nulls_first=True), "pk")


def record_user(user: ArizeUser, seen: WireUser | None) -> bool:
    """What Arize answered, None for a refusal, which leaves a name that was told before. True if a name changed."""
    now = timezone.now()
    if seen is None or not (seen.name or seen.email):
        ArizeUser.objects.filter(pk=user.pk).update(read_at=now)
        return False
    told = {"name": seen.name or "", "email": seen.email or "", "known": True}
    changed = any(getattr(user, name) != value for name, value in told.items())
    ArizeUser.objects.filter(pk=user.pk).update(read_at=now, **told)
    return changed


def names_of(runs: Iterable[Run]) -> dict[uuid.UUID, str]:
    """From a run's pk to the name of who triggered it; runs whose name is not known are left out. One query."""
    triggered = {run.pk: (run.team_id, run.endpoint, run.created_by_user_id) for run in runs if run.created_by_user_id}
    if not triggered:
        return {}
    teams, endpoints, ids = (set(column) for column in zip(*triggered.values(), strict=True))
    rows = ArizeUser.objects.filter(team__in=teams, endpoint__in=endpoints, arize_id__in=ids, known=True)
    names = {(row.team_id, row.endpoint, row.arize_id): row.name or row.email for row in rows}
    return {pk: names[who] for pk, who in triggered.items() if who in names}
