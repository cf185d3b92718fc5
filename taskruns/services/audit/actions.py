"""Starting verifications: from the site audit page, where a job does the work, or by the command.

Each compares the log with a given anchor file, or else with AUDIT_ANCHOR_FILE if that is set and readable.
"""

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.audit.raw_rows import tolerant_text
from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain, AuditVerification

from .anchors import AnchorFile, NoAnchors
from .verification import Found, Progress, Report, verify_chains

SILENT_FOR = timedelta(seconds=60)
GIVEN_UP_AFTER = timedelta(hours=6)
MAX_ROWS = 2**62
KEPT = timedelta(days=90)
CHUNK = 500
Result = AuditVerification.Result


def verify(
    *, by: Actor, chain: str | None = None, anchors: Path | None = None, progress: Progress, found: Found
) -> Report:
    """Verify one chain, or all of them, now. The site audit page shows the result too.

    A clean result for one chain is not saved, so that it does not hide faults of the others on the page.
    Raises NoAnchors if the given `anchors` file cannot be used.
    """
    verification = AuditVerification(started_at=timezone.now(), **_started_by(by))
    report = _verify(by=by, chain=chain, anchors=anchors, progress=progress, found=found)
    if chain is None or report.fault_count:
        for name, value in _finished(report).items():
            setattr(verification, name, value)
        verification.rows_expected = report.rows
        verification.save(force_insert=True)
    return report


def start_verification(*, by: Actor) -> AuditVerification:
    """A new verification of all chains for a job to run, or the one already running."""
    with tolerant_text():
        heads = list(AuditChain.objects.values_list("seq", flat=True))
    expected = min(sum(seq for seq in heads if type(seq) is int and seq > 0), MAX_ROWS)
    try:
        with transaction.atomic():
            return AuditVerification.objects.create(rows_expected=expected, **_started_by(by))
    except IntegrityError:
        return AuditVerification.objects.latest("started_at")


def run_verification(verification_id: UUID) -> None:
    """Run a verification unless a worker already does. After SILENT_FOR without progress another worker may take it."""
    now = timezone.now()
    waiting = AuditVerification.objects.filter(pk=verification_id, result=Result.RUNNING)
    unseen = Q(seen_at=None) | Q(seen_at__lt=now - SILENT_FOR) | Q(seen_at__gt=now + SILENT_FOR)
    if not waiting.filter(unseen).update(seen_at=now):
        return
    verification = AuditVerification.objects.get(pk=verification_id)
    try:
        report = _verify(
            by=Actor(**verification.asker),
            chain=None,
            anchors=None,
            progress=lambda so_far: _note_progress(verification, so_far),
            found=lambda _fault: None,
        )
    except Exception:
        waiting.update(result=Result.BROKEN_OFF, finished_at=timezone.now())
        raise
    waiting.update(**_finished(report))


def _verify(*, by: Actor, chain: str | None, anchors: Path | None, progress: Progress, found: Found) -> Report:
    report = Report(found=found)
    anchor_file = _anchor_file(anchors, report, progress)
    if anchor_file is not None:
        report.compared = _covers(anchor_file, chain, report, is_named=anchors is not None)
        if anchor_file.torn_count:
            more = " ..." if anchor_file.torn_count > len(anchor_file.torn) else ""
            lines = ", ".join(map(str, anchor_file.torn)) + more
            report.notes.append(f"anchor file lines that are not anchors, cut short by a crash or edited: {lines}")
    verify_chains(by=by, chain=chain, anchor_file=anchor_file, report=report, progress=progress)
    return report


def _covers(anchor_file: AnchorFile, chain: str | None, report: Report, *, is_named: bool) -> bool:
    """Whether the file has anchors for every chain to verify that has any. It proves nothing about the other chains."""
    chains = {chain} if chain else set(AuditAnchor.objects.values_list("chain", flat=True).distinct())
    left_out = sorted(map(str, chains - anchor_file.chains()))
    if chain and left_out and is_named:
        raise NoAnchors(f"The anchor file has no anchors for chain {chain}. Use a copy that does.")
    if chains and not is_named and not chains & anchor_file.chains():
        report.is_anchor_file_unreadable = _was_published()  # it was overwritten
    for name in left_out:
        report.notes.append(f"not compared: the anchor file has no anchors for chain {name}")
    return not left_out


def _anchor_file(anchors: Path | None, report: Report, progress: Progress) -> AnchorFile | None:
    """The given file, else AUDIT_ANCHOR_FILE. If the latter cannot be read, add a note and return None."""
    if anchors is not None:
        return AnchorFile(anchors, progress=lambda: progress(report))
    if not settings.AUDIT_ANCHOR_FILE:
        return None
    try:
        return AnchorFile(Path(settings.AUDIT_ANCHOR_FILE), progress=lambda: progress(report))
    except NoAnchors as error:
        report.notes.append(f"not compared with AUDIT_ANCHOR_FILE: {error}")
        report.is_anchor_file_unreadable = _was_published()
        return None


def _was_published() -> bool:
    """Whether AUDIT_ANCHOR_FILE should have anchors. Before the first one there is no file."""
    return AuditAnchor.objects.exclude(pk__in=AnchorToPublish.objects.values("anchor")).exists()


def stalled() -> list[UUID]:
    """Verifications whose worker stopped responding, to run again. After GIVEN_UP_AFTER they are ended instead."""
    now = timezone.now()
    running = AuditVerification.objects.filter(result=Result.RUNNING)
    # Times in the future are left by a clock that was set back, or written by hand.
    ended = Q(started_at__lt=now - GIVEN_UP_AFTER) | Q(started_at__gt=now + SILENT_FOR)
    running.filter(ended).update(result=Result.BROKEN_OFF, finished_at=now)
    quiet = now - SILENT_FOR
    silent = Q(seen_at__lt=quiet) | Q(seen_at__gt=now + SILENT_FOR) | Q(seen_at=None, started_at__lt=quiet)
    return list(running.filter(silent).values_list("pk", flat=True))


def status() -> tuple[AuditVerification | None, AuditVerification | None]:
    """The running verification and the last finished one."""
    rows = AuditVerification.objects.order_by("-started_at")
    return rows.filter(result=Result.RUNNING).first(), rows.exclude(result=Result.RUNNING).first()


def latest_failed() -> AuditVerification | None:
    """The verification that the warning banner shows, if any.

    That is the last one that found faults, until a clean one clears it; else the last one, if it was interrupted.
    Faults found by comparing with external anchors are cleared only by a clean comparison with external anchors.
    """
    ended = AuditVerification.objects.exclude(result=Result.RUNNING).order_by("-finished_at")
    complete = ended.filter(result__in=[Result.CLEAN, Result.FAULTS])
    for rows in (complete.filter(compared=True), complete):
        last = rows.first()
        if last is not None and last.result == Result.FAULTS:
            return last
    last = ended.first()
    return last if last is not None and last.result == Result.BROKEN_OFF else None


def _started_by(by: Actor) -> dict[str, Any]:
    asker = {name.name: getattr(by, name.name) for name in fields(by) if name.name != "person"}
    return {"asked_by": by.label, "asker": asker}


def _finished(report: Report) -> dict[str, Any]:
    return {
        "result": Result.FAULTS if report.fault_count else Result.CLEAN,
        "finished_at": timezone.now(),
        "rows": report.rows,
        "faults": report.faults,
        "fault_count": report.fault_count,
        "compared": report.compared,
        "notes": report.notes,
    }


def _note_progress(verification: AuditVerification, so_far: Report) -> None:
    AuditVerification.objects.filter(pk=verification.pk).update(seen_at=timezone.now(), rows=so_far.rows)


def forget_old() -> bool:
    """Delete a chunk of old verifications. Those that found faults stay, and so does the newest one of each kind,
    which the audit page may show. True if there may be more.
    """
    ended = AuditVerification.objects.filter(result__in=[Result.CLEAN, Result.BROKEN_OFF])
    newer = ended.filter(
        result=OuterRef("result"), compared=OuterRef("compared"), finished_at__gt=OuterRef("finished_at")
    )
    old = ended.filter(Exists(newer), finished_at__lt=timezone.now() - KEPT).order_by("finished_at")
    ids = list(old.values_list("pk", flat=True)[:CHUNK])
    AuditVerification.objects.filter(pk__in=ids).delete()
    return len(ids) == CHUNK
