"""The life of a run, oldest first: what Arize tells of it, and between that what people did to it here."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from taskruns.models import AuditEvent, Run, Status
from taskruns.pages.audit.rows import AuditRow, audit_row

from .durations import true_time
from .values import Moment, status_mark

_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """`kind` is created, started, ended, gone or event; an event brings its row of the audit log with it."""

    kind: str
    text: str
    icon: str
    at: Moment | None = None
    more: str = ""
    event: AuditRow | None = None


def timeline_of(run: Run, events: Iterable[AuditEvent], *, cause: str, creator: str = "") -> tuple[TimelineEntry, ...]:
    """`cause`: why the run ended as it did, as far as anyone knows; `creator`: the name of who made it, if it is known.

    What has no time stands where it must have been.
    """
    steps = [_created(run, creator), *_started(run), *map(_event, events), *_ended(run, cause)]
    return tuple(entry for _, entry in sorted(steps, key=lambda step: step[0]))


def _created(run: Run, creator: str) -> tuple[datetime, TimelineEntry]:
    if (at := true_time(run.created_at)) is None:
        return run.first_seen_at, TimelineEntry("created", "First seen here", "clock", Moment.of(run.first_seen_at))
    who = creator or run.created_by_user_id
    by = f"by {who}" if who else ""
    return at, TimelineEntry("created", "Created in Arize", "clock", Moment.of(at), by)


def _started(run: Run) -> list[tuple[datetime, TimelineEntry]]:
    at = true_time(run.run_started_at)
    return [] if at is None else [(at, TimelineEntry("started", "Started", "play", Moment.of(at)))]


def _event(event: AuditEvent) -> tuple[datetime, TimelineEntry]:
    row = audit_row(event)
    icon = {"success": "success", "warning": "warning", "error": "error"}.get(row.tone, "info")
    return event.at, TimelineEntry("event", row.sentence, icon, row.at, row.reason, row)


def _ended(run: Run, cause: str) -> list[tuple[datetime, TimelineEntry]]:
    mark, at = status_mark(run), true_time(run.run_finished_at)
    if run.status == Status.GONE:
        gone = TimelineEntry("gone", "Arize no longer knows this run", mark.icon, Moment.of(run.gone_since))
        return [(run.gone_since or _LAST, gone)]
    if run.is_active or (run.status == Status.UNKNOWN and at is None):
        return []
    entry = TimelineEntry("ended", f"Ended: {mark.word} {mark.note}".rstrip(), mark.icon, Moment.of(at), cause)
    return [(at or _LAST, entry)]
