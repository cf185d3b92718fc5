"""Confirmed cancels are checked once more, because some runs keep running."""

from typing import Any

import pytest
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.models import Cancellation, Credential, Outcome, Run, Status, Task, User
from taskruns.services.mirror import refresh
from tests.clients import ClientOf
from tests.factories import make_run
from tests.fake_arize import World


@pytest.fixture
def task(credential: Credential, world: World, clock: Any) -> Task:
    """A task read so recently that neither its list nor the sweep is due."""
    world.task("T1")
    refresh(credential.pk, force=True)
    world.calls.clear()
    return Task.objects.get()


def cancelled(task: Task, world: World, number: int, *, now_in_arize: str) -> Run:
    run = make_run(task, status=Status.CANCELLED, arize_id=f"R{number}", observed_at=timezone.now())
    outcome = {"outcome": Outcome.CONFIRMED, "closed_at": timezone.now()}
    Cancellation.objects.create(run=run, person_label="oli@example.com", requested_at=timezone.now(), **outcome)
    world.run(run.arize_id, status=now_in_arize)
    return run


def run_rounds(credential: Credential, clock: Any, *, seconds: int) -> None:
    clock.shift(seconds)
    Task.objects.update(runs_read_at=timezone.now(), swept_at=timezone.now())
    Credential.objects.update(next_refresh_at=timezone.now(), tasks_read_at=timezone.now())
    assert refresh(credential.pk) is not None


def test_a_run_that_ignored_its_cancel_is_found_and_shown_in_red(
    task: Task, world: World, credential: Credential, clock: Any, vera: User, client_of: ClientOf
) -> None:
    lies = cancelled(task, world, 1, now_in_arize="RUNNING")
    run_rounds(credential, clock, seconds=5)
    assert world.reads_of("task-runs/R1") == 0, "too early: Arize may need a moment"
    run_rounds(credential, clock, seconds=6)
    lies.refresh_from_db()
    assert lies.status == Status.RUNNING
    page = client_of(vera).get("/teams/ops-north/runs/").content.decode()
    assert "said-alarm" in page
    assert "Arize reported the run as cancelled, but it is still active." in page


def test_a_reading_of_another_run_changes_nothing(
    task: Task, world: World, credential: Credential, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, other = cancelled(task, world, 1, now_in_arize="CANCELLED"), cancelled(task, world, 2, now_in_arize="RUNNING")
    ask = ArizeClient.get_run
    monkeypatch.setattr(ArizeClient, "get_run", lambda client, _: ask(client, other.arize_id))
    run_rounds(credential, clock, seconds=11)
    held.refresh_from_db()
    assert held.status == Status.CANCELLED
    other.refresh_from_db()
    assert other.status == Status.RUNNING  # control: of this one, it was the right reading


def test_a_run_that_stays_cancelled_costs_one_call(
    task: Task, world: World, credential: Credential, clock: Any
) -> None:
    cancelled(task, world, 1, now_in_arize="CANCELLED")
    for _ in range(6):
        run_rounds(credential, clock, seconds=12)
    assert world.reads_of("task-runs/R1") == 1


def test_a_round_reads_a_few_of_many_and_never_old_ones(
    task: Task, world: World, credential: Credential, clock: Any
) -> None:
    for number in range(12):
        cancelled(task, world, number, now_in_arize="CANCELLED")
    run_rounds(credential, clock, seconds=12)
    assert world.reads_of("task-runs/") == 5
    run_rounds(credential, clock, seconds=5)
    assert world.reads_of("task-runs/") == 10
    run_rounds(credential, clock, seconds=600)
    assert world.reads_of("task-runs/") == 10
