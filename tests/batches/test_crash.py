"""Bulk cancels with real workers, a simulated Arize with faults, and power cuts: every outcome is still true."""

from pathlib import Path
from typing import Any

import pytest
from django.db.models import Q
from django.utils import timezone

from taskruns.models import AuditEvent, CancelItem
from taskruns.services import batches, cancellations
from taskruns.services.batches import worker as working
from tests.batches.worker_stack import FAULTS, WorkerStack, worker_stack
from tests.factories import actor
from tests.processes import wait_for
from tests.threads import in_threads

pytestmark = pytest.mark.slow


def test_200_runs_get_true_outcomes_despite_faults(committed: None, tmp_path: Path, settings: Any) -> None:
    with worker_stack(tmp_path, rate=100) as here:
        runs = here.add_runs(200)
        here.fail(*FAULTS)
        batch = here.batch(runs)
        here.start_worker()
        here.wait_for(batch, within=90)
        assert here.faults_of(batch) == []
        assert batches.counts_of(batch)["confirmed"] >= 190
        assert len(here.posts()) == 200


def test_a_batch_resumes_after_power_cuts_and_its_rows_are_true(committed: None, tmp_path: Path, settings: Any) -> None:
    with worker_stack(tmp_path, rate=20) as here:
        runs = here.add_runs(60)
        here.fail({"path": "/cancel", "latency_ms": 400, "latency_at": "after"})
        batch = here.batch(runs)
        for cut in range(2):
            worker = here.start_worker()
            until_some_are_sent(here, 12 * (cut + 1))
            here.kill(worker)
        lost = CancelItem.objects.filter(batch=batch, state="sent").count()
        assert lost, "the control: cancels were in progress when the power was cut"
        # Do not wait until the killed workers' claims expire.
        CancelItem.objects.filter(batch=batch, state="sent").update(next_try_at=timezone.now())
        here.start_worker()
        here.wait_for(batch, within=90)
        assert here.faults_of(batch) == []
        assert batches.counts_of(batch) == {"confirmed": 60}


def until_some_are_sent(here: WorkerStack, number: int) -> None:
    wait_for(lambda: sum(map(len, here.posts().values())) >= number, f"{number} POSTs", within=60)


def test_two_workers_on_one_batch_send_nothing_twice(
    committed: None, tmp_path: Path, settings: Any, monkeypatch: Any
) -> None:
    """Even if the claim of the batch does not keep the second worker away."""
    settings.CANCELS_PER_SECOND = 1_000
    with worker_stack(tmp_path) as here:
        batch = here.batch(here.add_runs(80))
        monkeypatch.setattr(working, "_unclaimed", lambda _: Q())
        in_threads(2, lambda _: batches.work(batch.pk))
        while batches.work(batch.pk) is not None:
            pass
        batch.refresh_from_db()
        assert here.faults_of(batch) == []
        assert [len(posts) for posts in here.posts().values()] == [1] * 80


def test_a_run_cancelled_singly_during_its_batch_gets_one_post(committed: None, tmp_path: Path, settings: Any) -> None:
    settings.CANCELS_PER_SECOND = 1_000
    with worker_stack(tmp_path) as here:
        runs = here.add_runs(12)
        here.fail({"path": "/cancel", "latency_ms": 100})
        batch = here.batch(runs)
        acts: list[Any] = [lambda: batches.work(batch.pk)]
        acts += [lambda run=run: cancellations.cancel(run, by=actor(here.person)) for run in runs[:5]]
        in_threads(len(acts), lambda number: acts[number]())
        cancellations.send_unsent()  # those for which too many others waited for Arize
        while batches.work(batch.pk) is not None:
            pass
        assert here.faults_of(batch) == []
        assert [len(posts) for posts in here.posts().values()] == [1] * 12
        assert batches.counts_of(batch).keys() <= {"confirmed", "not_needed"}


def test_an_abort_stops_within_2_s_and_sent_cancels_are_followed(
    committed: None, tmp_path: Path, settings: Any
) -> None:
    with worker_stack(tmp_path, rate=20) as here:
        batch = here.batch(here.add_runs(300))
        here.start_worker()
        until_some_are_sent(here, 10)
        assert batches.abort(batch, by=actor(here.person))
        batch.refresh_from_db()
        here.wait_for(batch, within=30)
        late = [at for posts in here.posts().values() for at in posts if at > batch.aborted_at]
        assert len(late) <= 2 * 20, "those of 2 s; counted, as a busy machine sends more slowly"
        assert here.faults_of(batch) == []
        counts = batches.counts_of(batch)
        assert set(counts) == {"confirmed", "left_out"}
        assert counts["confirmed"] == len(here.posts())
        aborted = AuditEvent.objects.get(event="run.cancel_many", outcome="aborted")
        assert aborted.details["counts"]["left_out"] == counts["left_out"]
