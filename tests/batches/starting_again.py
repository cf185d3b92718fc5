"""Runs to start again, and batches that do it."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import responses
from django.utils import timezone

from taskruns.models import BatchKind, BatchSource, CancelBatch, CancelItem, CancelPace, Run, Status, Task, User
from taskruns.services import batches
from taskruns.services.batches import StartOptions
from tests.factories import actor, make_run
from tests.wire import trigger_url

START = datetime(2026, 11, 20, 3, tzinfo=UTC)
END = START + timedelta(hours=1)
BODY = {
    "max_spans": 10_000,
    "override_evaluations": False,
    "data_start_time": "2026-11-20T03:00:00.000Z",
    "data_end_time": "2026-11-20T04:00:00.000Z",
}


def ended_run(task: Task, *, status: Status = Status.FAILED, **fields: Any) -> Run:
    return make_run(task, status=status, **{"data_start_time": START, "data_end_time": END} | fields)


def draft_starts(runs: list[Run], **fields: Any) -> CancelBatch:
    draft = batches.draft_of(
        runs[0].team,
        run_ids=[run.pk for run in runs],
        source=BatchSource.SELECTION,
        kind=BatchKind.TRIGGER,
        **fields,
    )
    assert draft is not None
    return draft


def start_again(runs: list[Run], by: User, **options: Any) -> CancelBatch:
    """A confirmed batch."""
    return batches.confirm(draft_starts(runs), reason="bad data", by=actor(by), options=StartOptions(**options))


def accept(arize: responses.RequestsMock, task: Task) -> responses.BaseResponse:
    """Arize starts a new run for each POST."""
    numbers = count(1)

    def started(_: Any) -> tuple[int, dict[str, str], str]:
        return 201, {}, f'{{"id": "new-{next(numbers)}", "task_id": "{task.arize_id}", "status": "PENDING"}}'

    arize.add_callback("POST", trigger_url(task), started, content_type="application/json")
    return arize.registered()[-1]


def finish(batch: CancelBatch, *, most: int = 20) -> CancelBatch:
    """Work on the batch slice by slice, without the waits in between, until it is finished."""
    for _ in range(most):
        delay = batches.work(batch.pk)
        if delay is None:
            batch.refresh_from_db()
            return batch
        CancelItem.objects.filter(state="queued").update(next_try_at=timezone.now())
        CancelPace.objects.update(paused_until=None)
    raise AssertionError("the batch is not finished")


def states(batch: CancelBatch) -> list[str]:
    return list(batch.items.order_by("pk").values_list("state", flat=True))


def starts(arize: responses.RequestsMock) -> int:
    """How many POSTs Arize received."""
    return sum(call.request.method == "POST" for call in arize.calls)
