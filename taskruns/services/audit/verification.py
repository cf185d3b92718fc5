"""Walking the log to see whether anybody has touched it. `taskruns.verifier` is the walker; here are its rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction

from taskruns.audit import Actor, EventType, record
from taskruns.audit.keys import public_keys
from taskruns.audit.record import SITE_CHAIN
from taskruns.audit.triggers import missing
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, Team
from taskruns.verifier import Fault, Walker

from .steps import ANCHOR, EVENT, Row, as_json, in_steps

log = structlog.get_logger(__name__)

FAULTS_KEPT = 100
TOLD_EVERY = 10_000  # rows
# What a column of SQLite, which takes any text, may do to its reader.
_UNREADABLE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass
class Report:
    """What a walk over some chains has found. `faults` holds the first FAULTS_KEPT; `chains` rows by chain."""

    chains: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0

    @property
    def rows(self) -> int:
        return sum(self.chains.values())

    def add(self, fault: object) -> None:
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(str(fault))


Tell = Callable[[Report], None]


def walk(*, by: Actor, chain: str | None, outside: list[dict[str, Any]], tell: Tell) -> Report:
    """Walk one chain, or all of them, and record the verification in each chain that was read.

    `outside`: anchors from a copy kept outside the database. `tell` hears of the progress now and then.
    """
    report = Report()
    for trigger in missing(connection):
        report.add(f"the trigger {trigger} is missing or changed: the database would let rows be changed")
    unsealed = report.fault_count
    for name in [chain] if chain else _chains(outside):
        before = report.fault_count
        for fault in _faults(name, outside, report, tell):
            report.add(fault)
        faults = report.fault_count - before
        details = {"chain": name, "rows": report.chains[name], "faults": faults, "triggers_missing": unsealed}
        if faults or unsealed:
            _record_failed(report, name, details, by=by)
        else:
            _record(_team_of(name), "ok", details, by=by)
    return report


def _chains(outside: list[dict[str, Any]]) -> list[str]:
    """Every chain that anything speaks of: a chain that was deleted whole is still in its head or its anchors."""
    known = set(AuditChain.objects.values_list("chain", flat=True))
    known |= set(AuditEvent.objects.values_list("chain", flat=True).distinct())
    known |= set(AuditAnchor.objects.values_list("chain", flat=True).distinct())
    return sorted(known | {str(anchor["chain"]) for anchor in outside})


def _faults(chain: str, outside: list[dict[str, Any]], report: Report, tell: Tell) -> Iterator[Fault]:
    """Rows may be added while the walk goes on: the head before it must be reached, the head after it not passed."""
    report.chains[chain] = 0
    head = AuditChain.objects.filter(chain=chain).first()
    walker = Walker(chain, public_keys())
    for anchor in _anchors(chain, outside):
        yield from walker.anchor(anchor)
    for event in in_steps(AuditEvent.objects.filter(chain=chain), EVENT, read=_read):
        yield from _row(walker, event, head)
        report.chains[chain] = walker.rows
        if walker.rows % TOLD_EVERY == 0:
            tell(report)
    yield from _end(walker, head)
    tell(report)


def _row(walker: Walker, event: dict[str, Any], head: AuditChain | None) -> Iterator[Fault]:
    seq = event["seq"]
    if not isinstance(seq, int):
        yield Fault(walker.chain, "edited", walker.expected, "a row further down has a number that is none")
        return
    yield from walker.row(event)
    if head is not None and seq == head.seq and event["hash"] != head.hash:
        yield Fault(walker.chain, "bad link", seq, "the chain's head holds another hash: one of the two was changed")


def _end(walker: Walker, head: AuditChain | None) -> Iterator[Fault]:
    """The head is a cache, never proof: whoever changes rows may change it too, or forget to."""
    after = AuditChain.objects.filter(chain=walker.chain).first()
    if after is None and walker.rows:
        yield Fault(walker.chain, "missing", 0, "the head of the chain is gone: nothing can be added any more")
    yield from walker.end(at_least=head.seq if head else None, at_most=after.seq if after else None)


def _anchors(chain: str, outside: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from in_steps(AuditAnchor.objects.filter(chain=chain), ANCHOR)
    yield from outside


def _read(query: Any) -> list[Row]:
    try:
        return as_json(query)
    except _UNREADABLE:
        return [_one(pk, seq) for pk, seq in list(query.values_list("pk", "seq"))]


def _one(pk: int, seq: int) -> Row:
    """The row, or its place with nothing in it: then its hash cannot hold."""
    try:
        return as_json(AuditEvent.objects.filter(pk=pk).values_list("pk", "seq", *EVENT))[0]
    except _UNREADABLE:
        return (pk, seq, *(seq if name == "seq" else "unreadable" for name in EVENT))


def _record_failed(report: Report, chain: str, details: dict[str, Any], *, by: Actor) -> None:
    """A chain that was changed may take no further row: then the site's holds it. What was found is told anyhow."""
    for team in (_team_of(chain), None):
        try:
            _record(team, "failed", details, by=by)
            return
        except DatabaseError:
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
