"""The people and keys behind the user ids that runs carry, as far as Arize tells their names."""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, OuterRef, Q, QuerySet, Subquery, TextField, Value
from django.db.models.functions import Coalesce, NullIf
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


def with_creators(runs: QuerySet[Run]) -> QuerySet[Run]:
    """The runs, each with its `creator`: the name of who triggered it, empty where it is not known."""
    same = {"team": OuterRef("team"), "endpoint": OuterRef("endpoint"), "arize_id": OuterRef("created_by_user_id")}
    known = ArizeUser.objects.filter(known=True, **same)
    called = Coalesce(NullIf("name", Value("")), "email", output_field=TextField())
    read_with: dict[str, Any] = {
        "creator": Coalesce(Subquery(known.values(called=called)[:1]), Value(""), output_field=TextField())
    }
    return runs.annotate(**read_with)
