"""Cancelling many: each run of a frozen list comes to a true end, with its rows."""

from typing import Any

import pytest
import responses
from django.utils import timezone

from taskruns.models import (
    AuditEvent,
    BatchSource,
    BatchState,
    CancelBatch,
    CancelItem,
    CancelPace,
    Run,
    Task,
    Team,
    User,
)
from taskruns.services import bulk

from .conftest import actor, events, make_run, run_url, wire_run


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:
    settings.CANCELS_PER_SECOND = 1_000


@pytest.fixture
def runs(task: Task) -> list[Run]:
    return [make_run(task) for _ in range(5)]


def batch_of(team: Team, runs: list[Run], by: User, **fields: Any) -> CancelBatch:
    ids = [run.pk for run in runs]
    return bulk.create_batch(
        team, run_ids=ids, reason="bad prompt", by=actor(by), source=BatchSource.SELECTION, **fields
    )


def work_off(batch: CancelBatch, *, most: int = 20) -> CancelBatch:
    """Portion after portion, each when it is due, until the batch says that it is finished."""
    for _ in range(most):
        delay = bulk.work(batch.pk)
        if delay is None:
            batch.refresh_from_db()
            return batch
        CancelItem.objects.update(next_try_at=timezone.now())
        CancelPace.objects.update(paused_until=None)
    raise AssertionError("the batch does not come to its end")


def answers(arize: responses.RequestsMock, run: Run, *posts: Any, seen: str = "RUNNING") -> None:
    """What Arize says to the POSTs, one after the other (a status, or a state of the run), and to each reading."""
    for post in posts:
        if isinstance(post, str):
            arize.post(run_url(run, "/cancel"), json=wire_run(run, post))
        elif isinstance(post, Exception):
            arize.post(run_url(run, "/cancel"), body=post)
        else:
            arize.post(run_url(run, "/cancel"), status=post, json={"title": "No", "status": post})
    arize.get(run_url(run), json=wire_run(run, seen))


def states(batch: CancelBatch) -> list[str]:
    return list(batch.items.order_by("pk").values_list("state", flat=True))


def posts(arize: responses.RequestsMock, run: Run) -> int:
    return sum(call.request.method == "POST" and call.request.url == run_url(run, "/cancel") for call in arize.calls)


def test_each_run_is_cancelled_once_and_has_its_rows(team: Team, runs: list[Run], oli: User, arize: Any) -> None:
    for run in runs:
        answers(arize, run, "CANCELLED")
    batch = work_off(batch_of(team, runs, oli))
    assert states(batch) == ["confirmed"] * 5
    assert batch.state == BatchState.FINISHED
    assert [posts(arize, run) for run in runs] == [1] * 5
    assert events(event="run.cancel_many") == [("run.cancel_many", "requested"), ("run.cancel_many", "finished")]
    for run in runs:
        rows = AuditEvent.objects.filter(run_id=run.arize_id).order_by("id")
        assert [row.outcome for row in rows] == ["requested", "confirmed"]
        assert {row.details["batch_id"] for row in rows} == {str(batch.pk)}
        assert {(row.actor_label, row.actor_role) for row in rows} == {("oli@example.com", "operator")}
        assert rows[0].reason == "bad prompt"
    finished = AuditEvent.objects.get(outcome="finished")
    assert finished.details["counts"] == {"confirmed": 5}
