"""Ends the key tests that a crash left without a result."""

from datetime import timedelta
from functools import partial

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from taskruns.audit import Actor, EventType
from taskruns.models import AuditEvent, Credential, Team
from taskruns.services.remote_acts import SWEEPER, sum_of_all

from .key_tests import locked, record_test

log = structlog.get_logger(__name__)

# Each call of a test times out, so the process of a test that began earlier than this has died.
LONGEST_TEST = timedelta(minutes=5)
INTERRUPTED = "interrupted"


def sweep(*, by: Actor = SWEEPER) -> int:
    """Record `failed` for each test that a crash left without a result. Returns how many. Safe to run concurrently.

    Arize is not asked again: that would be another test. A test that was only slow still records its own result, as a
    further row of its operation.
    """
    tests = AuditEvent.objects.filter(event=EventType.CREDENTIAL_TEST)
    requested = tests.filter(outcome="requested", at__lt=timezone.now() - LONGEST_TEST)
    results = tests.filter(operation_id=OuterRef("operation_id")).exclude(outcome="requested")
    return sum_of_all(partial(_end, row, by) for row in requested.exclude(Exists(results)).order_by("id"))


@transaction.atomic(durable=True)
def _end(requested: AuditEvent, by: Actor) -> bool:
    operation, key_id = requested.operation_id, requested.credential_id
    if operation is None or key_id is None:
        return False  # someone changed the row in the database
    credential = locked(key_id) or _never_saved(requested)
    if credential is None:
        return False  # the same
    if AuditEvent.objects.filter(operation_id=operation).exclude(pk=requested.pk).exists():
        return False  # the test recorded its result after the query
    record_test(credential, "failed", operation=operation, by=by, details={"why": INTERRUPTED})
    log.info("key_test_ended", operation=str(operation), key=str(credential.pk))
    return True


def _never_saved(requested: AuditEvent) -> Credential | None:
    """The key of a test before saving, with its team locked instead of a row of its own."""
    if requested.team_id is None:
        return None
    team = Team.objects.select_for_update(no_key=True).filter(pk=requested.team_id).first()
    if team is None:
        return None
    return Credential(pk=requested.credential_id, team=team, name=requested.target_label, endpoint=requested.endpoint)
