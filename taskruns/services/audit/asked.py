"""Verifications that somebody asked for: on the page, where a job does them, or by the command."""

from dataclasses import fields
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, Sum
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import AuditChain, AuditVerification

from .verification import Report, Tell, walk

SILENT_FOR = timedelta(seconds=60)
GIVEN_UP_AFTER = timedelta(hours=6)
Result = AuditVerification.Result


def verify(*, by: Actor, chain: str | None = None, outside: list[dict[str, Any]] | None = None, tell: Tell) -> Report:
    """Walk one chain, or all of them, now. What it finds is shown on the page of auditors too.

    A good report on one chain says nothing of the others, so it does not take their faults off the page.
    """
    asked = AuditVerification(started_at=timezone.now(), **_asker(by))
    report = walk(by=by, chain=chain, outside=outside or [], tell=tell)
    if chain is None or report.fault_count:
        for name, value in _ended(report).items():
            setattr(asked, name, value)
        asked.rows_expected = report.rows
        asked.save(force_insert=True)
    return report


def ask_for_verification(*, by: Actor) -> AuditVerification:
    """Begin one of all chains, or join the one that runs."""
    expected = AuditChain.objects.aggregate(rows=Sum("seq"))["rows"] or 0
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
    by = Actor(**asked.asker)
    try:
        report = walk(by=by, chain=None, outside=[], tell=lambda so_far: _tell(asked, so_far))
    except Exception:
        waiting.update(result=Result.BROKEN_OFF, finished_at=timezone.now())
        raise
    waiting.update(**_ended(report))


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
    """The last verification that came to an end, if it found faults: what the banner speaks of."""
    ended = AuditVerification.objects.filter(result__in=[Result.CLEAN, Result.FAULTS])
    last = ended.order_by("-finished_at").first()
    return last if last is not None and last.result == Result.FAULTS else None


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
    }


def _tell(asked: AuditVerification, so_far: Report) -> None:
    AuditVerification.objects.filter(pk=asked.pk).update(seen_at=timezone.now(), rows=so_far.rows)
