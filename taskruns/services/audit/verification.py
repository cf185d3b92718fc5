"""Walking the log to see whether anybody has touched it. `taskruns.verifier` is the walker; here are its rows."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

import structlog
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import EVERY
from taskruns.audit.append_only import missing
from taskruns.audit.damaged import STRANGE_VALUES, lenient, numbered
from taskruns.audit.record import SITE_CHAIN
from taskruns.audit.row_json import plain
from taskruns.audit.signing_keys import public_keys
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, Team
from taskruns.verifier import UNREADABLE, Fault, Walker, event_hash

from .anchor_file import Outside
from .row_stream import ANCHOR, EVENT, in_steps, unnumbered

log = structlog.get_logger(__name__)

FAULTS_KEPT = 20  # of one chain, for the page: the command prints all
TOLD_EVERY = 10_000  # rows and anchors
STRETCH = EVERY + 100  # rows without an anchor: one is made every thousand, and some writers may be at it at once
ANCHORED_WITHIN = timedelta(minutes=10)  # it is five, and a worker may be started anew
# A changed row is looked for so far from its place, and so many of them.
NEARBY, SEARCHES = 1_000, 100


Tell = Callable[["Report"], None]
Found = Callable[[str], None]


def _nobody(_fault: str) -> None:
    pass


@dataclass
class Report:
    """What a walk over some chains has found. `rows_of` and `anchors_of` are by chain, `faults` the first of each
    chain, `notes` what people should know and is no fault. `found` hears of every fault, as a line for people.
    """

    compared: bool = False  # with anchors from outside the database
    found: Found = _nobody
    rows_of: dict[str, int] = field(default_factory=dict)
    anchors_of: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    notes: list[str] = field(default_factory=list)
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


def walk(*, by: Actor, chain: str | None, outside: Outside | None, report: Report, tell: Tell) -> None:
    """Walk one chain, or all of them, and record the verification in each chain that was read.

    `outside`: anchors from a copy kept outside the database. `tell` hears of the progress now and then.
    """
    names = [chain] if chain else _chains(outside, report)
    triggers = missing(connection)
    for trigger in triggers:
        report.add(f"the trigger {trigger} is missing or changed: the database would let rows be changed")
    unsealed = len(triggers)
    for name in names:
        before = report.fault_count
        report.begin(name)
        for fault in _faults(name, outside, report, tell):
            report.add(fault)
        faults = report.fault_count - before
        details = {
            "chain": name,
            "rows": report.rows_of[name],
            "anchors": report.anchors_of[name],
            "compared": report.compared,
            "faults": faults,
            "triggers_missing": unsealed,
        }
        if faults or unsealed:
            _record_failed(report, name, details, by=by)
        else:
            _record(_team_of(name), "ok", details, by=by)


def _chains(outside: Outside | None, report: Report) -> list[str]:
    """Every chain that anything speaks of: a chain that was deleted whole is still in its head or its anchors."""
    known: set[Any] = outside.chains() if outside else set()
    with lenient():
        for model in (AuditChain, AuditEvent, AuditAnchor):
            known |= set(model._default_manager.values_list("chain", flat=True).distinct())
    names = {name for name in known if isinstance(name, str) and name.isprintable()}
    for odd in sorted(map(repr, known - names)):
        report.add(Fault(odd, "edited", 0, "no chain has such a name: rows, anchors or a head were changed"))
    return sorted(names)


def _faults(chain: str, outside: Outside | None, report: Report, tell: Tell) -> Iterator[Fault]:
    """Rows may be added while the walk goes on: the head before it must be reached, the head after it not passed."""
    started = timezone.now()
    head, head_hash = _head(chain)
    steps = 0

    def told(things: Iterator[Any]) -> Iterator[Any]:
        """A sign of life, whatever it is that takes so long."""
        nonlocal steps
        for thing in things:
            steps += 1
            if steps % TOLD_EVERY == 0:
                tell(report)
            yield thing

    walker = Walker(chain, public_keys(), told(_anchors(chain, outside)))
    unsigned = -1  # after this number too many rows have no anchor: it is told once
    searches = 0
    for event in told(in_steps(AuditEvent.objects.filter(chain=chain), EVENT)):
        for fault in walker.row(event):
            searches += fault.kind == "edited"
            yield _moved(fault, event) if fault.kind == "edited" and searches <= SEARCHES else fault
        report.rows_of[chain], report.anchors_of[chain] = walker.rows, walker.anchors
        if event["seq"] == head and event["hash"] != head_hash:
            yield Fault(
                chain, "bad link", event["seq"], "the chain's head holds another hash: one of the two was changed"
            )
        if walker.expected - walker.signed > STRETCH and unsigned != walker.signed:
            unsigned = walker.signed
            yield _unsigned(chain, unsigned + 1, f"{STRETCH} rows from here on have no anchor")
    yield from _unnumbered(chain)
    yield from _end(walker, head)
    report.anchors_of[chain] = walker.anchors
    if unsigned != walker.signed:
        yield from _late(walker, started)
    tell(report)


def _moved(fault: Fault, event: dict[str, Any]) -> Fault:
    """An edited row may be another one's place taken: then only its number was changed."""
    with suppress(*UNREADABLE):
        for seq in range(max(1, fault.seq - NEARBY), fault.seq + NEARBY + 1):
            if event_hash(event | {"seq": seq, "chain": fault.chain}) == event["hash"]:
                return fault._replace(kind="reordered", text=f"it was written as row {seq}")
    return fault


def _end(walker: Walker, head: int | None) -> Iterator[Fault]:
    """The head is a cache, never proof: whoever changes rows may change it too, or forget to."""
    after, _ = _head(walker.chain)
    if after is None and walker.rows:
        yield Fault(walker.chain, "missing", 0, "the head of the chain is gone, or no number: nothing can be added")
    yield from walker.end(head or 0, after)


def _late(walker: Walker, started: datetime) -> Iterator[Fault]:
    """The oldest row that no anchor covers should be young."""
    first = AuditEvent.objects.filter(chain=walker.chain, seq=walker.signed + 1)
    with suppress(IndexError, *STRANGE_VALUES):
        at = first.values_list("at", flat=True)[0]
        if at < started - ANCHORED_WITHIN:
            yield _unsigned(walker.chain, walker.signed + 1, f"written at {plain(at)}, and no anchor since")


def _unsigned(chain: str, seq: int, text: str) -> Fault:
    return Fault(chain, "anchor not met", seq, f"{text}: anchors were deleted, or the worker did not run")


def _unnumbered(chain: str) -> Iterator[Fault]:
    """Rows and anchors whose number is none cannot be walked; a row is named by the one written before it."""
    rows = AuditEvent.objects.filter(chain=chain)
    for nth, pk in enumerate(unnumbered(rows).iterator()):
        before = numbered(rows.filter(pk__lt=pk)).order_by("-pk") if nth < SEARCHES else rows.none()
        place = before.values_list("seq", flat=True).first() or 0
        yield Fault(chain, "edited", place + 1, "the number of a row here is none")
    for _ in unnumbered(AuditAnchor.objects.filter(chain=chain)).iterator():
        yield Fault(chain, "bad anchor signature", 0, "the number of an anchor is none")


def _head(chain: str) -> tuple[int | None, object]:
    """Number and hash that the head holds; None for one that is gone, or whose number is none."""
    with lenient():
        seq, stored = AuditChain.objects.filter(chain=chain).values_list("seq", "hash").first() or (None, None)
    return (seq if type(seq) is int else None), stored


def _anchors(chain: str, outside: Outside | None) -> Iterator[dict[str, Any]]:
    """Each once, in the order of their numbers. Those that are made while the walk goes on are left out: their rows
    may be newer than the walk.
    """
    inside = numbered(AuditAnchor.objects.filter(chain=chain))
    newest = inside.order_by("-seq").values_list("seq", flat=True).first() or 0
    number = itemgetter("seq")
    kept = in_steps(AuditAnchor.objects.filter(chain=chain, seq__lte=newest), ANCHOR)
    for _, same in groupby(merge(kept, outside.of(chain) if outside else (), key=number), key=number):
        seen: list[dict[str, Any]] = []
        for anchor in same:
            if anchor not in seen:
                seen.append(anchor)
                yield anchor


def _record_failed(report: Report, chain: str, details: dict[str, Any], *, by: Actor) -> None:
    """A chain that was changed may take no further row: then the site's holds it. What was found is told anyhow."""
    for team in (_team_of(chain), None):
        try:
            _record(team, "failed", details, by=by)
            return
        except (DatabaseError, *STRANGE_VALUES):
            log.exception("verification_not_recorded", chain=f"team:{team.pk}" if team else SITE_CHAIN)
            report.add(f"{chain}: nothing can be added to {'this chain' if team else 'the chain of the site'}")


def _record(team: Team | None, outcome: str, details: dict[str, Any], *, by: Actor) -> None:
    with transaction.atomic():
        record(EventType.AUDIT_VERIFY, outcome, by=by, team=team, details=details)


def _team_of(chain: str) -> Team | None:
    """None for the site, and for a chain whose team is gone from the database or whose name was edited."""
    try:
        return Team.objects.filter(pk=chain.removeprefix("team:")).first() if chain != SITE_CHAIN else None
    except ValidationError:
        return None
