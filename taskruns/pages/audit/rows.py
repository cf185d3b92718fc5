"""The audit log as shown on pages: sentences for people, with the codes beside them."""

from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse

from taskruns.audit import EventType
from taskruns.models import AuditEvent, AuditVerification
from taskruns.pages.browsers import browser_of
from taskruns.pages.outcomes import CANCEL_WORDS, TRIGGER_WORDS
from taskruns.pages.values import Link, Moment

from .sentences import sentence

DAMAGED = "This entry cannot be read because it was changed in the database. Its stored values are below."


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row: a sentence for people, and the stored codes. `tone` highlights rows that need attention.

    `ip`: where the request came from, if there was one, with its `browser`.
    """

    id: int
    seq: int
    at: Moment | None
    sentence: str
    event: str
    outcome: str
    tone: str
    actor: str
    actor_id: str  # empty unless the actor is a person or a token
    role: str
    reason: str
    run: str
    target: Link | None
    details: tuple[tuple[str, str], ...]
    ip: str = ""
    browser: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class AuditGroup:
    """The rows of one operation, oldest first: the request and its outcome. A single action is a group of one row."""

    rows: tuple[AuditRow, ...]
    team: Link | None

    @property
    def first(self) -> AuditRow:
        return self.rows[0]

    @property
    def outcome(self) -> str:
        """The outcome so far: that of the newest row."""
        return self.rows[-1].outcome

    @property
    def tone(self) -> str:
        return self.rows[-1].tone

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each reason once: the rows of one operation repeat the reason of its request."""
        return tuple(dict.fromkeys(row.reason for row in self.rows if row.reason))


@dataclass(frozen=True, slots=True)
class IdFilter:
    name: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """`chosen`: name -> value as in the query string. `ids`: the filters for ids, as form fields.

    `groups`: names of several events, such as `stop.*`.
    """

    chosen: dict[str, str]
    ids: tuple[IdFilter, ...]
    events: tuple[str, ...]
    groups: tuple[str, ...]
    outcomes: tuple[str, ...]
    is_set: bool

    @property
    def ids_are_set(self) -> bool:
        return any(field.value for field in self.ids)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """One page of a team's log, or without a team of all logs. `scanned`: rows scanned if the page is incomplete.
    `unwritten`: since when anchors cannot be written to their file. `own_readings_url`: the reader's own readings, if
    the page leaves them out.
    """

    team: str
    slug: str
    groups: tuple[AuditGroup, ...]
    filters: AuditFilters
    url: str
    query: str
    first_url: str
    next_url: str
    scanned: int
    unwritten: Moment | None
    questions: tuple[Link, ...] = ()
    own_readings_url: str = ""


@dataclass(frozen=True, slots=True)
class VerificationView:
    """One verification. `result` is a value of `AuditVerification.Result`. `percent` is the progress while it runs.
    `compared`: whether it was checked against external anchors.
    """

    result: str
    asked_by: str
    started: Moment | None
    finished: Moment | None
    rows: int
    percent: int
    faults: tuple[str, ...]
    more_faults: int
    compared: bool
    notes: tuple[str, ...]


def verification_view(asked: AuditVerification) -> VerificationView:
    done = 100 * asked.rows // asked.rows_expected if asked.rows_expected else 0
    return VerificationView(
        result=asked.result,
        asked_by=asked.asked_by,
        started=Moment.of(asked.started_at),
        finished=Moment.of(asked.finished_at),
        rows=asked.rows,
        percent=min(done, 100),
        faults=tuple(asked.faults),
        more_faults=asked.fault_count - len(asked.faults),
        compared=asked.compared,
        notes=tuple(asked.notes),
    )


def alarm_of(failed: AuditVerification) -> str:
    if failed.result == AuditVerification.Result.FAULTS:
        faults = "1 fault" if failed.fault_count == 1 else f"{failed.fault_count} faults"
        return f"The last verification of the audit log found {faults}. The log may have been tampered with."
    return "The last verification of the audit log did not finish. Tampering cannot be ruled out until one does."


_TONES = {"denied": "error", "failed": "error", "throttled": "error"}
_OUTCOME_TONES: dict[str, dict[str, str]] = {
    EventType.RUN_CANCEL: {it.value: words.log_tone for it, words in CANCEL_WORDS.items()},
    EventType.RUN_TRIGGER: {it.value: words.log_tone for it, words in TRIGGER_WORDS.items()},
}
_EVENT_TONES = {"credential.failing": "warning", "credential.expiring": "warning", "token.expire": "warning"}


def audit_group(events: list[AuditEvent], *, slug: str = "") -> AuditGroup:
    rows = tuple(audit_row(event, slug=slug) for event in events)
    url = reverse("audit", args=[slug]) if slug else ""
    first = events[0]
    return AuditGroup(rows, Link(first.team_label, url) if first.team_id and not first.is_damaged else None)


def audit_row(event: AuditEvent, *, slug: str = "") -> AuditRow:
    if event.is_damaged:
        return _changed_row(event)
    return AuditRow(
        id=event.pk,
        seq=event.seq,
        at=Moment.of(event.at),
        sentence=sentence(event),
        event=event.event,
        outcome=event.outcome,
        tone=_tone(event),
        actor=event.actor_label or event.actor_type,
        actor_id=event.actor_id if event.actor_type in {"user", "token"} else "",
        role=event.actor_role,
        reason=event.reason,
        run=event.run_id,
        target=_target(event, slug),
        details=_all_fields(event),
        ip=event.ip,
        browser=browser_of(event.user_agent),
        user_agent=event.user_agent,
    )


def _tone(event: AuditEvent) -> str:
    of_outcome = _TONES | _OUTCOME_TONES.get(event.event, {})
    return of_outcome.get(event.outcome) or _EVENT_TONES.get(event.event, "")


def _changed_row(event: AuditEvent) -> AuditRow:
    """Show the raw stored values and trust none of them."""
    stored = {field.attname: getattr(event, field.attname) for field in event._meta.concrete_fields}
    return AuditRow(
        id=event.pk,
        seq=event.seq,
        at=None,
        sentence=DAMAGED,
        event=_shown(event.event),
        outcome=_shown(event.outcome),
        tone="error",
        actor=_shown(event.actor_label) or "unknown",
        actor_id="",
        role="",
        reason="",
        run="",
        target=None,
        details=tuple((name, _shown(value)) for name, value in stored.items() if value not in ("", None)),
    )


def _shown(value: object) -> str:
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(value))


def _target(event: AuditEvent, slug: str) -> Link | None:
    if event.target_type != "run" or not slug:
        return None
    try:
        return Link(event.run_id or event.target_label, reverse("run", args=[slug, event.target_id]))
    except NoReverseMatch:
        return None


def _all_fields(event: AuditEvent) -> tuple[tuple[str, str], ...]:
    """Every stored column that is not empty, under its own name."""
    names = [field.attname for field in event._meta.concrete_fields if field.attname != "id"]
    shown = [(name, getattr(event, name)) for name in names if name != "details"]
    flat = [(f"details.{key}", value) for key, value in sorted(event.details.items())]
    return tuple((name, str(value)) for name, value in shown + flat if value not in ("", None))
