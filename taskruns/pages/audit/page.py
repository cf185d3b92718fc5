"""The audit log page: newest first, the rows of one operation grouped together.

A group is placed by its oldest row that matches the filter. That place does not change when rows are added, so pages
neither skip nor repeat a group. A page scans down by primary key: the rows of one request, run, person or event if
filtered by it, else the chain. Other filters have no index, because the log is written far more often than searched.
One request therefore scans at most SCAN_LIMIT rows and says how far it got. A date filter seeks straight to its place.

The reader's own readings of the log are recorded but left out, or each visit would begin with the visit itself. The
page says so, and lists them if asked.
"""

from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import CATALOGUE, EventType
from taskruns.audit.anchors import unwritten_since
from taskruns.audit.record import chain_of
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, Team
from taskruns.pages.values import Moment
from taskruns.services.audit.matching import event_groups, events_of, matching, unindexed
from taskruns.services.audit.rows import read_events
from taskruns.services.query_statistics import newest_by_index

from .questions import questions
from .rows import AuditFilters, AuditGroup, AuditPage, IdFilter, audit_group

PAGE = 50
SCAN_LIMIT = 1_000  # rows
# Rows scanned beyond a date filter's bound, in case the clock was set back.
SLACK = 1_000
_IDS = {
    "run": "Run ID",
    "task": "Task ID",
    "actor": "Person or token ID",
    "key": "API key ID",
    "batch": "Bulk cancel ID",
    "request": "Request ID",
}
# Filters with an index, the most selective first.
_INDEXED = {"request": "request_id", "run": "run_id", "actor": "actor_id", "event": "event"}
_READ = EventType.AUDIT_READ.value
# One event, or all of a group.
EVENTS = frozenset(event.value for event in EventType) | frozenset(event_groups())
OUTCOMES = frozenset(outcome for outcomes in CATALOGUE.values() for outcome in outcomes)


def page(team: Team | None, wanted: AuditFilter, *, reader: str = "") -> AuditPage:
    """One page of a team's log, or for None of the site's and all teams' logs. `reader`: the id of the person whose own
    readings are left out, unless the filter names that event.
    """
    left_out = reader if _READ not in events_of(wanted.event) else ""
    scope = AuditEvent.objects.filter(chain=chain_of(team.pk)) if team else AuditEvent.objects.all()
    with newest_by_index():
        top = _top(scope, wanted)
        rows, bottom = _rows_to_scan(scope, team, wanted, top)
        matches = _oldest_of_each(matching(rows, wanted, without_indexes=True), wanted)
        if left_out:
            own = {"own_event": _READ, "own_actor_id": left_out}  # the names that `matching` gives them
            matches = matches.exclude(**own)
        found = read_events(matches.order_by("-pk")[: PAGE + 1])
        further = _has_more(scope, wanted, bottom)
    is_full = len(found) > PAGE
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
        scanned=SCAN_LIMIT if further and not is_full else 0,
        unwritten=Moment.of(unwritten_since()),
        questions=questions(url, wanted, of_site=team is None, now=timezone.now()),
        own_readings_url=url + AuditFilter(event=_READ, actor=left_out).query() if left_out else "",
    )


def _top(scope: QuerySet[AuditEvent], wanted: AuditFilter) -> int:
    """The primary key below which the page starts."""
    tops = [wanted.before if wanted.before is not None else _first_key(scope.order_by("-pk"), 0) + 1]
    if wanted.until is not None:
        until = scope.filter(at__lt=wanted.until).order_by("-at", "-pk")
        tops.append(_first_key(until, -SLACK) + 1 + SLACK)
    return min(tops)


def _rows_to_scan(
    scope: QuerySet[AuditEvent], team: Team | None, wanted: AuditFilter, top: int
) -> tuple[QuerySet[AuditEvent], int]:
    """At most SCAN_LIMIT rows, and the lowest of their keys, or 0 if there are none below.

    The number of queries does not depend on the length of the log.
    """
    below = scope.filter(pk__lt=top)
    if not wanted.is_set:
        return below, 0
    # Count rows instead of subtracting keys: rolled-back transactions leave gaps in the keys.
    bottom = next(iter(below.order_by("-pk").values_list("pk", flat=True)[SCAN_LIMIT - 1 : SCAN_LIMIT]), 0)
    name = next((name for name in _INDEXED if getattr(wanted, name)), None)
    if name is not None:
        keys = _newest(name, getattr(wanted, name), top)
        # A common event of one team is found sooner in the team's chain than among all teams' rows of that event.
        if len(keys) < SCAN_LIMIT or name != "event" or team is None:
            return scope.filter(pk__in=keys), keys[-1] if len(keys) == SCAN_LIMIT else 0
    return below.filter(pk__gte=bottom), bottom


def _newest(name: str, value: str, top: int) -> list[int]:
    """The newest keys by an index. It has an order only for one value, so each event of a group is read by itself."""
    values = events_of(value) if name == "event" else (value,)
    rows = AuditEvent.objects.filter(pk__lt=top).order_by("-pk")
    read = (rows.filter(**{_INDEXED[name]: one}).values_list("pk", flat=True)[:SCAN_LIMIT] for one in values)
    return sorted((key for keys in read for key in keys), reverse=True)[:SCAN_LIMIT]


def _has_more(scope: QuerySet[AuditEvent], wanted: AuditFilter, bottom: int) -> bool:
    """Whether any row below the scanned ones could match."""
    if not bottom:
        return False
    is_any = scope.filter(pk__lt=bottom).exists()
    if wanted.since is None:
        return is_any
    since = scope.filter(at__gte=wanted.since).order_by("at", "pk")
    return _first_key(since, bottom + SLACK) < bottom + SLACK and is_any


def _first_key(rows: QuerySet[AuditEvent], otherwise: int) -> int:
    found = rows.values_list("pk", flat=True).first()
    return otherwise if found is None else int(found)


def _oldest_of_each(events: QuerySet[AuditEvent], wanted: AuditFilter) -> QuerySet[AuditEvent]:
    """Older rows are looked up by operation, whatever the filter: see `matching`."""
    same = {"operation_id": OuterRef("operation_id"), "pk__lt": OuterRef("pk")}
    older = AuditEvent.objects.alias(own_chain=unindexed("chain")).filter(**same, own_chain=OuterRef("chain"))
    return events.filter(~Exists(matching(older, wanted, without_indexes=True)))


def _groups(found: list[AuditEvent], team: Team | None) -> tuple[AuditGroup, ...]:
    """Each row with all rows of its operation, oldest first, including those that do not match the filter."""
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
        events=tuple(sorted(event.value for event in EventType)),
        groups=event_groups(),
        outcomes=tuple(sorted(OUTCOMES)),
        is_set=wanted.is_set,
    )
