"""The log as people read it: newest first, the rows of one operation together.

An operation stands at the place of its oldest row that the filter lets through. That place never changes, whatever is
written later, so pages neither skip nor repeat. A page walks down by the rows' keys: along the rows of one run, person,
request or event where it is asked for, else along the chain. What the other filters want has no index (the log is
written far more often than it is searched), so one request looks at WALK rows at most and says how far it came; a time
leads straight to its place.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import BooleanField, Case, Exists, F, Func, OuterRef, Q, QuerySet, Value, When
from django.db.models.lookups import Exact
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import CATALOGUE, Actor, EventType, record
from taskruns.audit.record import SITE_CHAIN
from taskruns.display.audit import AuditFilters, AuditGroup, AuditPage, IdFilter, audit_group
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, AuditReading, Team

from .reading import readable

PAGE = 50
WALK = 1_000
# Rows that a page looks further than a time says, should the clock have been set back.
SLACK = 1_000
READING_COUNTS_FOR = timedelta(hours=1)
_IDS = {
    "run": "Run id",
    "task": "Task id",
    "actor": "Person (panel id)",
    "key": "Key (panel id)",
    "batch": "Batch id",
    "request": "Request id",
}
# Filters with an index of their own, the one that leaves the fewest rows first.
_LANES = {"request": "request_id", "run": "run_id", "actor": "actor_id", "event": "event"}
EVENTS = frozenset(event.value for event in EventType)
OUTCOMES = frozenset(outcome for outcomes in CATALOGUE.values() for outcome in outcomes)


def page(team: Team | None, wanted: AuditFilter) -> AuditPage:
    """One page of a team's log; for None of all logs, the site's and every team's."""
    scope = AuditEvent.objects.filter(chain=_chain(team)) if team else AuditEvent.objects.all()
    top = _top(scope, wanted)
    rows, bottom = _rows_to_look_at(scope, team, wanted, top)
    found = readable(_oldest_of_each(matching(rows, wanted), wanted).order_by("-pk")[: PAGE + 1])
    is_full = len(found) > PAGE
    further = _has_more(scope, wanted, bottom)
    more = found[PAGE - 1].pk if is_full else bottom if further else None
    url = reverse("audit", args=[team.slug]) if team else reverse("site-audit")
    return AuditPage(
        team=team.name if team else "",
        slug=team.slug if team else "",
        groups=_groups(found[:PAGE], team),
        filters=_filters(wanted),
        url=url,
        query=wanted.query(),
        first_url=url + wanted.query() if wanted.before is not None else "",
        next_url=url + wanted.query(before=more) if more is not None else "",
        walked=WALK if further and not is_full else 0,
    )


def matching(events: QuerySet[AuditEvent], wanted: AuditFilter) -> QuerySet[AuditEvent]:
    """The rows that every chosen filter lets through. A person is who has this id, or whose address holds the text."""
    exact = {
        "event": wanted.event,
        "outcome": wanted.outcome,
        "actor_id": wanted.actor,
        "run_id": wanted.run,
        "task_id": wanted.task,
        "credential_id": wanted.key,
        "request_id": wanted.request,
        "at__gte": wanted.since,
        "at__lt": wanted.until,
    }
    events = events.filter(**{name: value for name, value in exact.items() if value})
    if wanted.batch:
        events = events.filter(_of_batch(wanted.batch))
    if wanted.person:
        events = events.filter(actor_label__icontains=wanted.person)
    if wanted.q:
        words = ("target_label", "reason", "team_label", "actor_label")
        whole = Q(run_id=wanted.q) | Q(task_id=wanted.q)
        events = events.filter(reduce(or_, (Q((f"{name}__icontains", wanted.q)) for name in words), whole))
    return events


def _of_batch(batch: str) -> Any:
    """On SQLite a row whose details were made no JSON by hand would fail the whole query."""
    if connection.vendor != "sqlite":
        return Q(details__batch_id=batch)
    is_json = Func(F("details"), function="JSON_VALID", output_field=BooleanField())
    cases = [When(Q(Exact(is_json, Value(value=False))), then=False), When(details__batch_id=batch, then=True)]
    return Case(*cases, default=False, output_field=BooleanField())


def record_reading(team: Team | None, *, by: Actor) -> None:
    """Opening the log is an act: recorded once per person, chain and hour.

    The page of all teams (None) is a reading of the site's log: who may see it may read every chain, so one row there
    tells it, and no team's log is filled with the readings of those who look after all.
    """
    mine = {"actor_id": by.id, "chain": _chain(team)}
    now = timezone.now()
    known = AuditReading.objects.filter(**mine)
    if known.filter(recorded_at__gt=now - READING_COUNTS_FOR).exists():
        return
    with transaction.atomic():
        # Of two pages opened at once one makes or moves the mark, and records.
        if known.filter(recorded_at__lte=now - READING_COUNTS_FOR).update(recorded_at=now) or _first(mine, now):
            record(EventType.AUDIT_READ, "done", by=by, team=team)


def _first(mine: dict[str, str], now: datetime) -> bool:
    try:
        with transaction.atomic():
            AuditReading.objects.create(**mine, recorded_at=now)
    except IntegrityError:
        return False
    return True


def _chain(team: Team | None) -> str:
    return f"team:{team.pk}" if team else SITE_CHAIN


def _top(scope: QuerySet[AuditEvent], wanted: AuditFilter) -> int:
    """The key that the page stands below."""
    tops = [wanted.before if wanted.before is not None else _first_key(scope.order_by("-pk"), 0) + 1]
    if wanted.until is not None:
        until = scope.filter(at__lt=wanted.until).order_by("-at", "-pk")
        tops.append(_first_key(until, -SLACK) + 1 + SLACK)
    return min(tops)


def _rows_to_look_at(
    scope: QuerySet[AuditEvent], team: Team | None, wanted: AuditFilter, top: int
) -> tuple[QuerySet[AuditEvent], int]:
    """At most WALK rows, and the lowest of their keys; 0 where nothing lies below.

    As many queries for a short log as for a long one.
    """
    below = scope.filter(pk__lt=top)
    if not wanted.is_set:
        return below, 0
    # Counted, because keys have gaps where a transaction was undone.
    bottom = next(iter(below.order_by("-pk").values_list("pk", flat=True)[WALK - 1 : WALK]), 0)
    name = next((name for name in _LANES if getattr(wanted, name)), None)
    if name is not None:
        lane = AuditEvent.objects.filter(**{_LANES[name]: getattr(wanted, name)}, pk__lt=top).order_by("-pk")
        keys = list(lane.values_list("pk", flat=True)[:WALK])
        # A common event is met along the team's own chain sooner than among those of all teams.
        if len(keys) < WALK or name != "event" or team is None:
            return scope.filter(pk__in=keys), keys[-1] if len(keys) == WALK else 0
    return below.filter(pk__gte=bottom), bottom


def _has_more(scope: QuerySet[AuditEvent], wanted: AuditFilter, bottom: int) -> bool:
    """Whether anything that could match lies below the rows that were looked at."""
    is_any = scope.filter(pk__lt=bottom).exists()
    if wanted.since is None:
        return is_any
    since = scope.filter(at__gte=wanted.since).order_by("at", "pk")
    return _first_key(since, bottom + SLACK) < bottom + SLACK and is_any


def _first_key(rows: QuerySet[AuditEvent], otherwise: int) -> int:
    found = rows.values_list("pk", flat=True).first()
    return otherwise if found is None else int(found)


def _oldest_of_each(events: QuerySet[AuditEvent], wanted: AuditFilter) -> QuerySet[AuditEvent]:
    same = {"operation_id": OuterRef("operation_id"), "chain": OuterRef("chain"), "pk__lt": OuterRef("pk")}
    return events.filter(~Exists(matching(AuditEvent.objects.filter(**same), wanted)))


def _groups(found: list[AuditEvent], team: Team | None) -> tuple[AuditGroup, ...]:
    """Each row with the other rows of its operation, oldest first, also those that the filter hides."""
    operations = {event.operation_id for event in found if isinstance(event.operation_id, UUID)}
    rows: dict[tuple[str, UUID | None], list[AuditEvent]] = defaultdict(list)
    for row in readable(AuditEvent.objects.filter(operation_id__in=operations).order_by("pk")):
        rows[row.chain, row.operation_id].append(row)
    slugs: dict[UUID | None, str] = {team.pk: team.slug} if team else _slugs(found)
    return tuple(
        audit_group(rows.get((event.chain, event.operation_id), [event]), slug=slugs.get(event.team_id, ""))
        for event in found
    )


def _slugs(found: Iterable[AuditEvent]) -> dict[UUID | None, str]:
    teams = {event.team_id for event in found if isinstance(event.team_id, UUID)}
    return dict(Team.objects.filter(pk__in=teams).values_list("pk", "slug"))


def _filters(wanted: AuditFilter) -> AuditFilters:
    return AuditFilters(
        chosen=wanted.chosen(),
        ids=tuple(IdFilter(name, label, str(getattr(wanted, name) or "")) for name, label in _IDS.items()),
        events=tuple(sorted(EVENTS)),
        outcomes=tuple(sorted(OUTCOMES)),
        is_set=wanted.is_set,
    )
