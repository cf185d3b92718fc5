"""The log as people read it: newest first, the rows of one operation together.

An operation stands at the place of its oldest row that the filter lets through. That place never changes, whatever is
written later, so pages neither skip nor repeat. A page walks down by the rows' keys: along the rows of one run, person,
request or event where it is asked for, else along the chain. What the other filters want has no index (the log is
written far more often than it is searched), so one request looks at WALK rows at most and says how far it came; a time
leads straight to its place.
"""

from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet
from django.urls import reverse

from taskruns.audit import CATALOGUE, EventType
from taskruns.audit.record import chain_of
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, Team
from taskruns.services.audit.matching import matching
from taskruns.services.audit.row_stream import read_events

from .rows import AuditFilters, AuditGroup, AuditPage, IdFilter, audit_group

PAGE = 50
WALK = 1_000
# Rows that a page looks further than a time says, should the clock have been set back.
SLACK = 1_000
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
    scope = AuditEvent.objects.filter(chain=chain_of(team.pk)) if team else AuditEvent.objects.all()
    top = _top(scope, wanted)
    rows, bottom = _rows_to_look_at(scope, team, wanted, top)
    found = read_events(_oldest_of_each(matching(rows, wanted), wanted).order_by("-pk")[: PAGE + 1])
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
    for row in read_events(AuditEvent.objects.filter(operation_id__in=operations).order_by("pk")):
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
