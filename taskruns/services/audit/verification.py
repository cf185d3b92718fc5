"""Verifying the log in the database: reads the rows and anchors that `taskruns.verifier` checks."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

import structlog
from django.db import DatabaseError, connection, transaction
from django.db.models import F, Window
from django.db.models.functions import Lag
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import ANCHOR_EVERY
from taskruns.audit.append_only import KEPT_WHOLE, foreign_triggers, missing_triggers
from taskruns.audit.raw_rows import UNREADABLE_VALUE, tolerant_text, with_number
from taskruns.audit.record import SITE_CHAIN, chain_of, team_of
from taskruns.audit.row_json import row_as_json, value_as_json
from taskruns.audit.signing_keys import public_keys
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, Team
from taskruns.models.restores import restored_at
from taskruns.verifier import (
    UNREADABLE,
    ChainChecker,
    Fault,
    canonical,
    event_hash,
    printable,
    restore_statement,
    signature_holds,
)

from .anchors import AnchorFile
from .rows import ANCHOR, EVENT, stream_values, unnumbered

log = structlog.get_logger(__name__)

FAULTS_KEPT = 20  # per chain, for the page; the command prints all
REPORT_EVERY = 10_000  # rows and anchors
MAX_UNANCHORED = ANCHOR_EVERY + 100  # rows; this many without an anchor are normal while several processes write
ANCHORED_WITHIN = timedelta(minutes=10)  # normally within five; the rest allows for a worker restart
# The original number is searched for the first SEARCHES changed rows, and only NEARBY numbers up and down.
SEARCHES, NEARBY = 100, 1_000
LONGEST_SEARCHED = 2**14  # bytes of a row; the panel writes shorter ones, and each number costs a hash

THINNED = (
    f"of the anchors older than {KEPT_WHOLE.days} days, the database keeps the last of each day: "
    "only an anchor file has the others"
)

Progress = Callable[["Report"], None]
Found = Callable[[str], None]


def _ignore(_fault: str) -> None:
    pass


@dataclass
class Report:
    """The result of verifying some chains.

    `rows_of` and `anchors_of` count by chain. `faults` holds the first FAULTS_KEPT of each chain, `notes` what is
    worth knowing but not a fault. `found` is called with every fault, as a sentence.
    """

    compared: bool = False  # with external anchors
    found: Found = _ignore
    rows_of: dict[str, int] = field(default_factory=dict)
    anchors_of: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    is_anchor_file_unreadable: bool = False  # AUDIT_ANCHOR_FILE, although anchors were made
    notes: list[str] = field(default_factory=list)
    resting_since: str = ""  # if this panel was restored and not adopted
    left_out: int = 0  # external anchors signed since then
    _of_this_chain: int = 0

    @property
    def rows(self) -> int:
        return sum(self.rows_of.values())

    def begin(self, chain: str) -> None:
        self._of_this_chain = self.rows_of[chain] = self.anchors_of[chain] = 0

    def add(self, fault: object) -> None:
        self.fault_count += 1
        self._of_this_chain += 1
        if self._of_this_chain <= FAULTS_KEPT:
            self.faults.append(str(fault))
        self.found(str(fault))


def verify_chains(
    *, by: Actor, chain: str | None, anchor_file: AnchorFile | None, report: Report, progress: Progress
) -> None:
    """Verify one chain, or all of them, and record the result in each verified chain.

    `progress` is called with the report every REPORT_EVERY rows and anchors.
    """
    names = [chain] if chain else _chains(anchor_file, report)
    triggers = missing_triggers(connection)
    for trigger in triggers:
        report.add(f"the trigger {trigger} is missing or changed: the database no longer refuses changes to rows")
    _note_foreign_triggers(report)
    report.resting_since = _resting_since()
    for name in names:
        before, left_out = report.fault_count, report.left_out
        report.begin(name)
        for fault in _faults(name, anchor_file, report, progress):
            report.add(fault)
        details = {
            "chain": name,
            "rows": report.rows_of[name],
            "anchors": report.anchors_of[name],
            "compared": report.compared and report.left_out == left_out,
            "faults": report.fault_count - before,
            "triggers_missing": len(triggers),
        }
        if details["faults"] or triggers:
            _record_failed(report, name, details, by=by)
        else:
            _record(team_of(name), "ok", details, by=by)
    if any(map(_has_old_anchors, names)):
        report.notes.append(THINNED)
    _note_left_out(report)


def _resting_since() -> str:
    """When this panel was restored, if it rests since then, else "".

    Only if a signed row of the log says the same: whoever can write to the database could also let the panel rest.
    """
    at = restored_at()
    rows = AuditEvent.objects.filter(chain=SITE_CHAIN, event=EventType.SYSTEM_RESTORED, outcome="done")
    with suppress(*UNREADABLE, *UNREADABLE_VALUE):
        row = with_number(rows).order_by("-seq").first()
        if at is not None and row is not None:
            event, since = row_as_json(row), str(value_as_json(at))
            is_signed = signature_holds(restore_statement(event), public_keys(), "restore")
            return since if is_signed and event["details"]["restored_at"] == since else ""
    return ""


def _note_left_out(report: Report) -> None:
    if report.left_out:
        report.compared = False
        report.notes.append(
            f"{report.left_out} external anchors were signed after the restore of {report.resting_since}, by the panel "
            "whose backup it was, and not compared: this panel is not in service"
        )


def _has_old_anchors(chain: str) -> bool:
    anchors = with_number(AuditAnchor.objects.filter(chain=chain)).order_by("seq")
    with suppress(*UNREADABLE_VALUE):
        first = anchors.values_list("signed_at", flat=True).first()
        return first is not None and first < timezone.now() - KEPT_WHOLE
    return False


def _note_foreign_triggers(report: Report) -> None:
    """Notes, not faults: replication, for example, uses triggers. But a trigger can also keep rows out of the log."""
    for name in foreign_triggers(connection):
        note = f"the trigger or rule {name} on the log's tables is not the panel's: it may keep rows out of the log"
        report.notes.append(printable(note))


def _chains(anchor_file: AnchorFile | None, report: Report) -> list[str]:
    """Every chain named by a head, a row or an anchor: a chain whose rows were all deleted is still verified."""
    known: set[Any] = anchor_file.chains() if anchor_file else set()
    with tolerant_text():
        for model in (AuditChain, AuditEvent, AuditAnchor):
            known |= set(model._default_manager.values_list("chain", flat=True).distinct())
    names = {name for name in known if isinstance(name, str) and name.isprintable()}
    for odd in sorted(map(repr, known - names)):
        report.add(Fault(odd, "edited", 0, "not a valid chain name: rows, anchors or a head were changed"))
    return sorted(names)


def _faults(chain: str, anchor_file: AnchorFile | None, report: Report, progress: Progress) -> Iterator[Fault]:
    """Rows may be added while we read: the chain must reach the head read before, and not pass the head read after."""
    started, faults_before = timezone.now(), report.fault_count
    head, head_hash = _head(chain)
    steps = 0

    def watched(things: Iterator[Any]) -> Iterator[Any]:
        """Report progress while rows or anchors are read."""
        nonlocal steps
        for thing in things:
            steps += 1
            if steps % REPORT_EVERY == 0:
                progress(report)
            yield thing

    checker = ChainChecker(chain, public_keys(), watched(_anchors(chain, _outside(chain, anchor_file, report))))
    unsigned = -1  # the last reported row after which too many have no anchor
    thinning = _Thinning(chain, started)
    searches = 0
    for event in watched(stream_values(AuditEvent.objects.filter(chain=chain), EVENT)):
        for fault in checker.row(event):
            searches += fault.kind == "edited"
            yield _moved(fault, event) if fault.kind == "edited" and searches <= SEARCHES else fault
        report.rows_of[chain], report.anchors_of[chain] = checker.rows, checker.anchors
        if event["seq"] == head and event["hash"] != head_hash:
            yield Fault(
                chain, "bad link", event["seq"], "the chain's head has another hash: one of the two was changed"
            )
        is_far = checker.expected - checker.signed > MAX_UNANCHORED and unsigned != checker.signed
        # Anchors made since the start are not read, so rows written since then seem to have none.
        is_new = head is not None and event["seq"] > head
        if is_far and not is_new and not thinning.explains(checker.signed, event["at"]):
            unsigned = checker.signed
            yield _unsigned(chain, unsigned + 1, f"{MAX_UNANCHORED} rows from here on have no anchor")
    yield from _unnumbered(chain)
    yield from _check_end(checker, head)
    report.anchors_of[chain] = checker.anchors
    if unsigned != checker.signed:
        yield from _unanchored_too_long(checker, started)
    report.notes += map(printable, checker.notes)
    if report.fault_count == faults_before:
        yield from _displaced(chain)
    progress(report)


class _Thinning:
    """Of the anchors older than KEPT_WHOLE, the last of each UTC day is left in the database."""

    def __init__(self, chain: str, started: datetime) -> None:
        self._chain, self._before = chain, started - KEPT_WHOLE + ANCHORED_WITHIN
        self._signed, self._until = -1, ""

    def explains(self, signed: int, at: object) -> bool:
        """Whether rows after number `signed`, up to one written `at`, may have lost their anchors to thinning."""
        if signed != self._signed:
            self._signed, self._until = signed, self._end(signed + 1)
        return isinstance(at, str) and at < self._until

    def _end(self, seq: int) -> str:
        """The end of the day whose last anchor covers the row, as text; empty if the row is too young."""
        with suppress(*UNREADABLE_VALUE):
            rows = with_number(AuditEvent.objects.filter(chain=self._chain, seq__gte=seq)).order_by("seq")
            at = rows.values_list("at", flat=True).first()
            if at is not None and at < self._before:
                day = max(_day_of(at + ANCHORED_WITHIN), self._anchored_on(seq) or _day_of(at))
                return str(value_as_json(day + timedelta(days=1)))
        return ""

    def _anchored_on(self, seq: int) -> datetime | None:
        """The day of the next anchor, if it may be the first one since the row: the worker may have been stopped over
        midnight. No more rows than a worker leaves without an anchor may then be older than that day.
        """
        anchors = with_number(AuditAnchor.objects.filter(chain=self._chain, seq__gte=seq)).order_by("seq")
        found = anchors.values_list("seq", "signed_at").first()
        if found is None or found[1] >= self._before:
            return None
        rows = AuditEvent.objects.filter(chain=self._chain, seq__gte=seq, seq__lte=found[0])
        day = _day_of(found[1])
        return day if rows.filter(at__lt=day).count() <= MAX_UNANCHORED else None


def _day_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _displaced(chain: str) -> Iterator[Fault]:
    """Rows whose primary key is out of order. No hash covers it, but the pages sort and search by it."""
    before = Window(Lag("pk", default=0), order_by=F("seq").asc())
    rows = with_number(AuditEvent.objects.filter(chain=chain)).annotate(before=before).filter(before__gte=F("pk"))
    for seq in rows.order_by("seq").values_list("seq", flat=True).iterator():
        yield Fault(chain, "reordered", seq, "its id was changed: the pages show it elsewhere or not at all")


def _moved(fault: Fault, event: dict[str, Any]) -> Fault:
    """If the row's hash matches under another number nearby, only its number was changed: report it as reordered."""
    with suppress(*UNREADABLE):
        if len(canonical(event)) > LONGEST_SEARCHED:
            return fault
        for seq in range(max(1, fault.seq - NEARBY), fault.seq + NEARBY + 1):
            if event_hash(event | {"seq": seq, "chain": fault.chain}) == event["hash"]:
                return fault._replace(kind="reordered", text=f"it was written as row {seq}")
    return fault


def _check_end(checker: ChainChecker, head: int | None) -> Iterator[Fault]:
    """Compare with the head. A match proves nothing, but someone who changed the rows may have left the head alone."""
    after, _ = _head(checker.chain)
    if after is None and checker.rows:
        yield Fault(checker.chain, "missing", 0, "the head of the chain is gone or not a number: no row can be added")
    yield from checker.end(head or 0, after)


def _unanchored_too_long(checker: ChainChecker, started: datetime) -> Iterator[Fault]:
    """Report an old row that no anchor covers."""
    first = with_number(AuditEvent.objects.filter(chain=checker.chain, seq__gt=checker.signed)).order_by("seq")
    with suppress(IndexError, *UNREADABLE_VALUE):
        at = first.values_list("at", flat=True)[0]
        if at < started - ANCHORED_WITHIN:
            yield _unsigned(checker.chain, checker.signed + 1, f"written at {value_as_json(at)}, no anchor since")


def _unsigned(chain: str, seq: int, text: str) -> Fault:
    return Fault(chain, "anchor not met", seq, f"{text}: anchors were deleted, or the worker did not run")


def _unnumbered(chain: str) -> Iterator[Fault]:
    """Report rows and anchors whose `seq` is not an integer: the stream omits them. A row is placed after the previous
    one written.
    """
    rows = AuditEvent.objects.filter(chain=chain)
    for nth, pk in enumerate(unnumbered(rows).iterator()):
        before = with_number(rows.filter(pk__lt=pk)).order_by("-pk") if nth < SEARCHES else rows.none()
        place = before.values_list("seq", flat=True).first() or 0
        yield Fault(chain, "edited", place + 1, "a row here has a number that is not an integer")
    for _ in unnumbered(AuditAnchor.objects.filter(chain=chain)).iterator():
        yield Fault(chain, "bad anchor signature", 0, "an anchor has a number that is not an integer")


def _head(chain: str) -> tuple[int | None, object]:
    """Number and hash in the chain's head. The number is None if there is no head or it is not an integer."""
    with tolerant_text():
        seq, stored = AuditChain.objects.filter(chain=chain).values_list("seq", "hash").first() or (None, None)
    return (seq if type(seq) is int else None), stored


def _outside(chain: str, anchor_file: AnchorFile | None, report: Report) -> Iterator[dict[str, Any]]:
    """The chain's external anchors. A restored panel that rests publishes none, and the real one may work beside it."""
    for anchor in anchor_file.of(chain) if anchor_file else ():
        if report.resting_since and anchor["signed_at"] > report.resting_since:
            report.left_out += 1
        else:
            yield anchor


def _anchors(chain: str, outside: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All anchors of the chain by row number, each once. Anchors made after the start are left out: their rows may be
    newer than the rows we read.
    """
    inside = with_number(AuditAnchor.objects.filter(chain=chain))
    newest = inside.order_by("-seq").values_list("seq", flat=True).first() or 0
    number = itemgetter("seq")
    kept = stream_values(AuditAnchor.objects.filter(chain=chain, seq__lte=newest), ANCHOR)
    for _, same in groupby(merge(kept, outside, key=number), key=number):
        seen: list[dict[str, Any]] = []
        for anchor in same:
            if anchor not in seen:
                seen.append(anchor)
                yield anchor


def _record_failed(report: Report, chain: str, details: dict[str, Any], *, by: Actor) -> None:
    """Record in the site's chain if the changed chain accepts no more rows. The faults are reported in any case."""
    for team in (team_of(chain), None):
        try:
            _record(team, "failed", details, by=by)
            return
        except (DatabaseError, *UNREADABLE_VALUE):
            log.exception("verification_not_recorded", chain=chain_of(team.pk if team else None))
            report.add(f"{chain}: no row can be added to {'this chain' if team else 'the chain of the site'}")


def _record(team: Team | None, outcome: str, details: dict[str, Any], *, by: Actor) -> None:
    with transaction.atomic():
        record(EventType.AUDIT_VERIFY, outcome, by=by, team=team, details=details)
