"""A run whose cancel is not confirmed is marked in the transaction that opens or closes the cancel, and by readings."""

from typing import Any

import pytest
import requests
import responses
from django.utils import timezone

from taskruns.models import BatchSource, Outcome, Run, Status, Task, User
from taskruns.models.runs import Attention
from taskruns.services import batches, cancellations
from taskruns.services.batches import dispatch
from taskruns.services.cancellations.answer import Answer
from taskruns.services.cancellations.results import close
from taskruns.services.runs.observations import record_gone, record_observation
from tests.factories import actor, make_run
from tests.runs.readings import reading
from tests.wire import run_url, wire_run

# (Arize's answer to the POST and to the reading after it, the outcome, whether the run is marked)
CASES = [
    ("CANCELLED", "CANCELLED", Outcome.CONFIRMED, False),
    ("RUNNING", "RUNNING", Outcome.OPEN, True),
    (409, "RUNNING", Outcome.REFUSED, True),
    (409, "COMPLETED", Outcome.FINISHED_FIRST, False),
    (500, 500, Outcome.UNKNOWN, True),
    (requests.ConnectTimeout(), 500, Outcome.NOT_SENT, False),
]


def answered(what: Any, run: Run) -> dict[str, Any]:
    if isinstance(what, Exception):
        return {"body": what}
    return {"json": wire_run(run, what)} if isinstance(what, str) else {"status": what, "json": {"title": "No"}}


def marks(run: Run) -> tuple[bool | None, int | None]:
    run.refresh_from_db()
    return run.cancel_open, run.attention


@pytest.mark.parametrize(("post", "read", "outcome", "is_open"), CASES)
def test_a_cancel_marks_the_run_until_it_is_confirmed(
    post: Any, read: Any, outcome: Outcome, is_open: Any, run: Run, oli: User, arize: responses.RequestsMock
) -> None:
    arize.post(run_url(run, "/cancel"), **answered(post, run))
    arize.get(run_url(run), **answered(read, run))
    assert cancellations.cancel(run, by=actor(oli)).outcome == outcome
    assert marks(run) == (is_open, Attention.CANCEL_OPEN if is_open else Attention.NONE)


def test_the_end_of_the_run_and_its_return_change_the_mark(run: Run, oli: User, arize: responses.RequestsMock) -> None:
    arize.post(run_url(run, "/cancel"), status=500)
    arize.get(run_url(run), status=500)
    cancellations.cancel(run, by=actor(oli))
    steps = (("COMPLETED", (False, Attention.NONE)), ("RUNNING", (True, Attention.CANCEL_OPEN)))
    for status, expected in (*steps, *steps):
        record_observation(run, reading(run, status, run_finished_at=None), timezone.now())
        assert marks(run) == expected, status
    record_gone(run, timezone.now())
    assert marks(run) == (False, Attention.NONE)


def test_a_later_cancel_that_was_not_sent_removes_the_mark(run: Run, oli: User, arize: Any) -> None:
    """The latest cancel counts: the person has seen the first one's refusal."""
    arize.post(run_url(run, "/cancel"), status=409, json={"title": "No"})
    arize.get(run_url(run), json=wire_run(run, "RUNNING"))
    cancellations.cancel(run, by=actor(oli))
    arize.reset()
    arize.post(run_url(run, "/cancel"), body=requests.ConnectTimeout())
    cancellations.cancel(run, by=actor(oli))
    assert marks(run) == (False, Attention.NONE)


def test_a_worse_reason_for_attention_stays(task: Task, oli: User, arize: responses.RequestsMock) -> None:
    run = make_run(task)
    seen = wire_run(run, "RUNNING", num_successes=5, num_errors=5)
    arize.post(run_url(run, "/cancel"), json=seen)
    arize.get(run_url(run), json=seen)
    cancellations.cancel(run, by=actor(oli))
    assert marks(run) == (True, Attention.MANY_ERRORS)


def test_each_run_of_a_batch_is_marked_when_its_cancel_is_opened(task: Task, oli: User) -> None:
    runs = [make_run(task) for _ in range(3)]
    ended = make_run(task)
    batch = batches.create_batch(
        task.team,
        run_ids=[run.pk for run in (*runs, ended)],
        reason="too expensive",
        by=actor(oli),
        source=BatchSource.SELECTION,
    )
    Run.objects.filter(pk=ended.pk).update(status=Status.COMPLETED, rank=0)
    opened = dispatch.open_some(batch.pk, task.credential_id, most=10)
    assert len(opened) == 3
    assert [marks(run)[0] for run in runs] == [True] * 3
    assert marks(ended)[0] is False
    not_sent = Answer(Outcome.NOT_SENT)
    assert close(opened[0].attempt, not_sent, by=actor(oli))
    assert sorted(marks(run)[0] is True for run in runs) == [False, True, True]
