"""Many people and workers at once: one stop per team, and one cancel per run."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from taskruns.models import AuditEvent, CancelBatch, CancelItem, EmergencyStop, Run, Team, User
from taskruns.services import stops
from tests.factories import actor, make_run

THREADS = 8


def at_once(work: Any) -> list[Any]:
    together = threading.Barrier(THREADS)

    def each(_: int) -> Any:
        together.wait()
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(each, range(THREADS)))


@pytest.mark.commits
def test_concurrent_pulls_make_one_stop(committed: None, run: Run, oli: User) -> None:
    def pull() -> str:
        try:
            return str(stops.pull(run.team, reason="why", left_out=[], by=actor(oli)).stop.pk)
        except stops.AlreadyPulled as first:
            return f"after {first.stop.person_label}"

    answers = at_once(pull)
    assert answers.count("after oli@example.com") == THREADS - 1
    assert EmergencyStop.objects.count() == CancelBatch.objects.count() == CancelItem.objects.count() == 1
    assert AuditEvent.objects.filter(event="stop.pull").count() == 1


@pytest.mark.commits
def test_concurrent_readings_cancel_each_new_run_once(committed: None, team: Team, run: Run, oli: User) -> None:
    stops.pull(team, reason="why", left_out=[], by=actor(oli))
    new = {make_run(run.task).pk for _ in range(5)}
    found = at_once(lambda: stops.hold(team.pk))
    assert sum(batch is not None for batch in found) == 1
    assert set(CancelItem.objects.exclude(run=run).values_list("run_id", flat=True)) == new
    assert CancelItem.objects.count() == 6


@pytest.mark.commits
def test_a_concurrent_cancel_and_lift_leave_nothing_in_progress(
    committed: None, team: Team, run: Run, oli: User
) -> None:
    stops.pull(team, reason="why", left_out=[], by=actor(oli))
    make_run(run.task)
    turns = iter([lambda: stops.lift(team, by=actor(oli)), *[lambda: stops.hold(team.pk)] * (THREADS - 1)])
    lock = threading.Lock()

    def one_lifts() -> Any:
        with lock:
            mine = next(turns)
        return mine()

    at_once(one_lifts)
    assert EmergencyStop.objects.get().end == "lifted"
    assert set(CancelBatch.objects.values_list("state", flat=True)) == {"aborted"}
