"""Applying the filters of the audit page to the log."""

from collections import Counter
from functools import reduce
from operator import or_
from typing import Any

from django.db import connection
from django.db.models import BooleanField, Case, F, Func, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce
from django.db.models.lookups import Exact

from taskruns.audit import EventType
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent
from taskruns.models.folded import contains

_INDEXED = frozenset({"event", "actor_id", "run_id", "request_id", "at"})
_EVERY = ".*"  # ends the name of a group of events


def events_of(wanted: str) -> tuple[str, ...]:
    """The events that a filter names: one, or all of a group such as `credential.*`."""
    if not wanted.endswith(_EVERY):
        return (wanted,)
    start = wanted.removesuffix("*")
    return tuple(event.value for event in EventType if event.value.startswith(start))


def event_groups() -> tuple[str, ...]:
    """The groups with more than one event."""
    starts = Counter(event.value.partition(".")[0] for event in EventType)
    return tuple(f"{start}{_EVERY}" for start, number in sorted(starts.items()) if number > 1)


def matching(
    events: QuerySet[AuditEvent], wanted: AuditFilter, *, without_indexes: bool = False
) -> QuerySet[AuditEvent]:
    """The rows that match every chosen filter. `actor` is an exact id, `person` a part of an email address.

    `without_indexes`: for queries with another condition that selects the rows. Without statistics, SQLite treats all
    indexes as equally good. It looked up an operation's rows by chain, and a small team's by event: seconds per page.
    """
    exact = {
        "event__in": events_of(wanted.event) if wanted.event else (),
        "outcome": wanted.outcome,
        "actor_id": wanted.actor,
        "run_id": wanted.run,
        "task_id": wanted.task,
        "credential_id": wanted.key,
        "request_id": wanted.request,
        "at__gte": wanted.since,
        "at__lt": wanted.until,
    }
    exact = {name: value for name, value in exact.items() if value}
    if without_indexes:
        events = events.alias(**{f"own_{name}": unindexed(name) for name in _INDEXED})
        exact = {f"own_{name}" if name.split("__")[0] in _INDEXED else name: value for name, value in exact.items()}
    events = events.filter(**exact)
    if wanted.batch:
        events = events.filter(_of_batch(wanted.batch))
    if wanted.person:
        events = events.filter(contains("actor_label", wanted.person))
    if wanted.q:
        texts = ("target_label", "reason", "team_label", "actor_label")
        ids = Q(run_id=wanted.q) | Q(task_id=wanted.q)
        events = events.filter(reduce(or_, (contains(name, wanted.q) for name in texts), ids))
    return events


def unindexed(name: str) -> Coalesce:
    """The column as an expression, for which no index exists."""
    return Coalesce(name, name)


def _of_batch(batch: str) -> Any:
    """On SQLite, skip rows whose details are not valid JSON: one changed by hand would fail the whole query."""
    if connection.vendor != "sqlite":
        return Q(details__batch_id=batch)
    is_json = Func(F("details"), function="JSON_VALID", output_field=BooleanField())
    cases = [When(Q(Exact(is_json, Value(value=False))), then=False), When(details__batch_id=batch, then=True)]
    return Case(*cases, default=False, output_field=BooleanField())
