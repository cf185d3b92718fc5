"""The log as people read it: newest first, the rows of one operation together.

An operation stands at the place of its oldest row that the filter lets through. That place never changes, whatever is
written later, so pages neither skip nor repeat. A page walks down the chain by its numbers. Most filters have no index
(the log is written far more often than it is searched), so one request looks at WALK rows at most and says how far it
came; a time leads straight to its place.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import CATALOGUE, Actor, EventType, record
from taskruns.audit.record import SITE_CHAIN
from taskruns.display.audit import AuditFilters, AuditGroup, AuditPage, IdFilter, audit_group
from taskruns.filters import AuditFilter
from taskruns.models import AuditEvent, AuditReading, Team

PAGE = 50
WALK = 20_000
# Rows that a page looks further than a time says, should the clock have been set back.
SLACK = 1_000
READING_COUNTS_FOR = timedelta(hours=1)
_IDS = {"run": "Run id", "task": "Task id", "key": "Key (panel id)", "batch": "Batch id", "request": "Request id"}
EVENTS = frozenset(event.value for event in EventType)
OUTCOMES = frozenset(outcome for outcomes in CATALOGUE.values() for outcome in outcomes)


def page(team: Team | None, wanted: AuditFilter) -> AuditPage:
    """One page of a team's log; for None of all logs, the site's and every team's."""
    scope = AuditEvent.objects.filter(chain=_chain(team)) if team else AuditEvent.objects.all()
    place = "seq" if team else "pk"
    bottom, top = _window(scope, place, wanted)
    window = scope.filter(**{f"{place}__lt": top, f"{place}__gte": bottom})
    found = list(_oldest_of_each(matching(window, wanted), wanted).order_by(f"-{place}")[: PAGE + 1])
    is_full = len(found) > PAGE
    further = _has_more(scope, place, wanted, bottom)
    more = _place(found[PAGE - 1], place) if is_full else bottom if further else None
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
    """The rows that every chosen filter lets through."""
    exact = {
        "event": wanted.event,
        "outcome": wanted.outcome,
        "run_id": wanted.run,
        "task_id": wanted.task,
        "credential_id": wanted.key,
        "request_id": wanted.request,
        "details__batch_id": wanted.batch,
        "at__gte": wanted.since,
        "at__lt": wanted.until,
    }
    events = events.filter(**{name: value for name, value in exact.items() if value})
    if wanted.person:
        events = events.filter(actor_label__icontains=wanted.person)
    if wanted.q:
        words = ("target_label", "reason", "team_label", "actor_label")
        whole = Q(run_id=wanted.q) | Q(task_id=wanted.q)
        events = events.filter(reduce(or_, (Q((f"{name}__icontains", wanted.q)) for name in words), whole))
    return events


def record_reading(team: Team | None, *, by: Actor) -> None:
    """Opening the log is an act: recorded once per person, chain and hour."""
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


def _window(scope: QuerySet[AuditEvent], place: str, wanted: AuditFilter) -> tuple[int, int]:
    """The places to look at: from the first number to below the second."""
    tops = [wanted.before if wanted.before is not None else _first_place(scope.order_by(f"-{place}"), place, 0) + 1]
    if wanted.until is not None:
        until = scope.filter(at__lt=wanted.until).order_by("-at", f"-{place}")
        tops.append(_first_place(until, place, -SLACK) + 1 + SLACK)
    top = min(tops)
    return _bottom(scope, place, top) if wanted.is_set else 0, top


def _bottom(scope: QuerySet[AuditEvent], place: str, top: int) -> int:
    """The place of the WALK-th row below; counted, because places have gaps where a transaction was undone."""
    below = scope.filter(**{f"{place}__lt": top}).order_by(f"-{place}").values_list(place, flat=True)
    return next(iter(below[WALK - 1 : WALK]), 0)


def _has_more(scope: QuerySet[AuditEvent], place: str, wanted: AuditFilter, bottom: int) -> bool:
    """Whether anything that could match lies below the window."""
    if not bottom or not scope.filter(**{f"{place}__lt": bottom}).exists():
        return False
    if wanted.since is None:
        return True
    since = scope.filter(at__gte=wanted.since).order_by("at", place)
    return _first_place(since, place, bottom + SLACK) < bottom + SLACK


def _first_place(rows: QuerySet[AuditEvent], place: str, otherwise: int) -> int:
    found = rows.values_list(place, flat=True).first()
    return otherwise if found is None else int(found)


def _oldest_of_each(events: QuerySet[AuditEvent], wanted: AuditFilter) -> QuerySet[AuditEvent]:
    same = {"operation_id": OuterRef("operation_id"), "chain": OuterRef("chain"), "pk__lt": OuterRef("pk")}
    return events.filter(~Exists(matching(AuditEvent.objects.filter(**same), wanted)))


def _groups(found: list[AuditEvent], team: Team | None) -> tuple[AuditGroup, ...]:
    """Each row with the other rows of its operation, oldest first, also those that the filter hides."""
    operations = {event.operation_id for event in found if event.operation_id}
    rows: dict[tuple[str, UUID | None], list[AuditEvent]] = defaultdict(list)
    for row in AuditEvent.objects.filter(operation_id__in=operations).order_by("pk"):
        rows[row.chain, row.operation_id].append(row)
    slugs: dict[UUID | None, str] = {team.pk: team.slug} if team else _slugs(found)
    return tuple(
        audit_group(rows.get((event.chain, event.operation_id), [event]), slug=slugs.get(event.team_id, ""))
        for event in found
    )


def _slugs(found: Iterable[AuditEvent]) -> dict[UUID | None, str]:
    teams = {event.team_id for event in found if event.team_id}
    return dict(Team.objects.filter(pk__in=teams).values_list("pk", "slug"))


def _place(event: AuditEvent, place: str) -> int:
    return int(getattr(event, place))


def _filters(wanted: AuditFilter) -> AuditFilters:
    return AuditFilters(
        chosen=wanted.chosen(),
        ids=tuple(IdFilter(name, label, str(getattr(wanted, name) or "")) for name, label in _IDS.items()),
        events=tuple(sorted(EVENTS)),
        outcomes=tuple(sorted(OUTCOMES)),
        is_set=wanted.is_set,
    )
