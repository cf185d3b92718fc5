"""Verifications that somebody asked for: on the page, where a job does them, or by the command.

All compare the log with the anchors of AUDIT_ANCHOR_FILE, if that is set and can be read, or with a file named.
"""

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.audit.damaged import lenient
from taskruns.models import AuditAnchor, AuditChain, AuditVerification

from .anchor_file import NoAnchors, Outside
from .verification import Found, Report, Tell, walk

SILENT_FOR = timedelta(seconds=60)
GIVEN_UP_AFTER = timedelta(hours=6)
MOST_ROWS = 2**62
Result = AuditVerification.Result


def verify(*, by: Actor, chain: str | None = None, anchors: Path | None = None, tell: Tell, found: Found) -> Report:
    """Walk one chain, or all of them, now. What it finds is shown on the page of auditors too.

    A good report on one chain says nothing of the others, so it does not take their faults off the page.
    Raises NoAnchors for a file of anchors that was named and cannot be used.
    """
    asked = AuditVerification(started_at=timezone.now(), **_asker(by))
    report = _walk(by=by, chain=chain, anchors=anchors, tell=tell, found=found)
    if chain is None or report.fault_count:
        for name, value in _ended(report).items():
            setattr(asked, name, value)
        asked.rows_expected = report.rows
        asked.save(force_insert=True)
    return report


def ask_for_verification(*, by: Actor) -> AuditVerification:
    """Begin one of all chains, or join the one that runs."""
    with lenient():
        heads = list(AuditChain.objects.values_list("seq", flat=True))
    expected = min(sum(seq for seq in heads if type(seq) is int and seq > 0), MOST_ROWS)
    try:
        with transaction.atomic():
            return AuditVerification.objects.create(rows_expected=expected, **_asker(by))
    except IntegrityError:
        return AuditVerification.objects.latest("started_at")


def run_verification(verification_id: UUID) -> None:
    """Do what was asked for, unless another worker is at it. A worker that falls silent loses its turn."""
    now = timezone.now()
    waiting = AuditVerification.objects.filter(pk=verification_id, result=Result.RUNNING)
    if not waiting.filter(Q(seen_at=None) | Q(seen_at__lt=now - SILENT_FOR)).update(seen_at=now):
        return
    asked = AuditVerification.objects.get(pk=verification_id)
    try:
        report = _walk(
            by=Actor(**asked.asker),
            chain=None,
            anchors=None,
            tell=lambda so_far: _tell(asked, so_far),
            found=lambda _fault: None,
        )
    except Exception:
        waiting.update(result=Result.BROKEN_OFF, finished_at=timezone.now())
        raise
    waiting.update(**_ended(report))


def _walk(*, by: Actor, chain: str | None, anchors: Path | None, tell: Tell, found: Found) -> Report:
    report = Report(found=found)
    outside = _outside(anchors, report, tell)
    if outside is not None:
        report.compared = _covers(outside, chain, report, is_named=anchors is not None)
        if outside.torn_count:
            lines = ", ".join(map(str, outside.torn)) + (" ..." if outside.torn_count > len(outside.torn) else "")
            report.notes.append(f"lines of the file of anchors that are none, torn by a crash or edited: {lines}")
    walk(by=by, chain=chain, outside=outside, report=report, tell=tell)
    return report


def _covers(outside: Outside, chain: str | None, report: Report, *, is_named: bool) -> bool:
    """Whether the file speaks of each chain that is to be walked and has an anchor: of another it proves nothing."""
    chains = {chain} if chain else set(AuditAnchor.objects.values_list("chain", flat=True).distinct())
    left_out = sorted(map(str, chains - outside.chains()))
    if chain and left_out and is_named:
        raise NoAnchors(f"The file of anchors holds none of the chain {chain}.")
    for name in left_out:
        report.notes.append(f"not compared: the file of anchors holds none of the chain {name}")
    return not left_out


def _outside(anchors: Path | None, report: Report, tell: Tell) -> Outside | None:
    """The file that was named, else AUDIT_ANCHOR_FILE, which may be elsewhere just now."""
    if anchors is not None:
        return Outside(anchors, tell=lambda: tell(report))
    if not settings.AUDIT_ANCHOR_FILE:
        return None
    try:
        return Outside(Path(settings.AUDIT_ANCHOR_FILE), tell=lambda: tell(report))
    except NoAnchors as error:
        report.notes.append(f"not compared with AUDIT_ANCHOR_FILE: {error}")
        return None


def stalled() -> list[UUID]:
    """Verifications whose worker has fallen silent: they begin again, but not for ever."""
    now = timezone.now()
    running = AuditVerification.objects.filter(result=Result.RUNNING)
    running.filter(started_at__lt=now - GIVEN_UP_AFTER).update(result=Result.BROKEN_OFF, finished_at=now)
    quiet = now - SILENT_FOR
    silent = Q(seen_at__lt=quiet) | Q(seen_at=None, started_at__lt=quiet)
    return list(running.filter(silent).values_list("pk", flat=True))


def status() -> tuple[AuditVerification | None, AuditVerification | None]:
    """The one that runs, and the last one that ended."""
    rows = AuditVerification.objects.order_by("-started_at")
    return rows.filter(result=Result.RUNNING).first(), rows.exclude(result=Result.RUNNING).first()


def latest_failed() -> AuditVerification | None:
    """What the banner speaks of: the last verification that found faults, until one is clean that looked at as much;
    else the last one, if it was broken off.

    What anchors outside the database have shown, only a comparison with them can take back.
    """
    ended = AuditVerification.objects.exclude(result=Result.RUNNING).order_by("-finished_at")
    whole = ended.filter(result__in=[Result.CLEAN, Result.FAULTS])
    for rows in (whole.filter(compared=True), whole):
        last = rows.first()
        if last is not None and last.result == Result.FAULTS:
            return last
    last = ended.first()
    return last if last is not None and last.result == Result.BROKEN_OFF else None


def _asker(by: Actor) -> dict[str, Any]:
    asker = {name.name: getattr(by, name.name) for name in fields(by) if name.name != "person"}
    return {"asked_by": by.label, "asker": asker}


def _ended(report: Report) -> dict[str, Any]:
    return {
        "result": Result.FAULTS if report.fault_count else Result.CLEAN,
        "finished_at": timezone.now(),
        "rows": report.rows,
        "faults": report.faults,
        "fault_count": report.fault_count,
        "compared": report.compared,
        "notes": report.notes,
    }


def _tell(asked: AuditVerification, so_far: Report) -> None:
    AuditVerification.objects.filter(pk=asked.pk).update(seen_at=timezone.now(), rows=so_far.rows)
