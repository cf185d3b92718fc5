"""What the chaos suite reads and moves in the panel's database, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from taskruns.audit import EventType, record
from taskruns.models import Cancellation, Credential, Run, Task, Team
from tests.batches.worker_stack import database_url
from tests.chaos.database import Database, Witness
from tests.factories import actor, make_credential, make_run, person

pytestmark = [pytest.mark.commits, pytest.mark.usefixtures("committed")]


@pytest.fixture
def database() -> Iterator[Database]:
    found = Database(database_url(), may_write=True)
    yield found
    found.close()


@pytest.fixture
def run(committed: None) -> Run:
    team = Team.objects.create(slug="north", name="North")
    key = make_credential(team, claimed_until=timezone.now())
    return make_run(Task.objects.create(team=team, endpoint=key.endpoint, arize_id="T", credential=key))


def test_the_witness_sees_committed_rows_only(database: Database, run: Run):
    witness = Witness(database)
    with transaction.atomic():
        opened = Cancellation.objects.create(run=run, person_label="oli")
        by = actor(person("oli@example.com"))
        record(EventType.RUN_CANCEL, "requested", by=by, team=run.team, run=run, operation_id=opened.pk)
        assert (witness.open_operation(run.arize_id), witness.requested(run.arize_id)) == ("", ())
    assert witness.open_operation(run.arize_id) == str(opened.pk)
    assert witness.requested(run.arize_id) == (str(opened.pk),)
    Cancellation.objects.update(outcome="confirmed")
    assert witness.open_operation(run.arize_id) == ""


def test_a_clock_jump_moves_what_the_panel_compares_with_its_clock(database: Database, run: Run):
    before = Credential.objects.get().claimed_until, run.observed_at
    database.shift(3600)
    after = Credential.objects.get().claimed_until, Run.objects.get().observed_at
    moved = [second - first for first, second in zip(before, after, strict=True) if first and second]
    assert [round(delta.total_seconds()) for delta in moved] == [3600, 3600]
    assert Credential.objects.get().backoff_until is None


def test_time_passes_for_open_cancels_that_have_their_answer(database: Database, run: Run):
    now = timezone.now()
    old = Cancellation.objects.create(run=run, person_label="oli", requested_at=now - timedelta(seconds=30))
    database.let_pass(400, only_stopping=True)
    assert Cancellation.objects.get().requested_at == old.requested_at
    database.let_pass(400)
    passed = (now - Cancellation.objects.get().requested_at).total_seconds()
    assert round(passed) == 430
    Cancellation.objects.update(requested_at=now)
    database.let_pass(400)
    assert abs((Cancellation.objects.get().requested_at - now).total_seconds()) < 1, "it may still be in flight"
