"""One table of cases for single cancels, batches and holds: Arize's answer, what happens then, and the true outcome.

Each case looks at the first cancel of a run. Later attempts of a batch are cancels of their own.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.utils import timezone

from taskruns.arize.wire import WireRun
from taskruns.models import BatchSource, CancelBatch, Cancellation, Outcome, Run, Task, Team, User
from taskruns.services import batches, cancellations, stops
from taskruns.services.batches import dispatch
from taskruns.services.cancellations import Answer
from taskruns.services.cancellations.results import close
from taskruns.services.remote_acts import SWEEPER, mark_posted
from taskruns.services.runs.observations import Reading, record_readings
from tests.factories import actor
from tests.stored import events
from tests.wire import run_url, wire_run

Act = Callable[["Stage"], None]


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:
    settings.CANCELS_PER_SECOND = 1_000


@dataclass
class Stage:
    """`way`: single, batch or hold."""

    way: str
    run: Run
    person: User
    arize: responses.RequestsMock
    batch: CancelBatch | None = None

    def answers(self, post: Any, read: Any = None) -> None:
        """Arize's answers from now on: a status of the run, an HTTP status or an error."""
        self.arize.reset()
        self.arize.post(run_url(self.run, "/cancel"), **self._as_answer(post))
        self.arize.get(run_url(self.run), **self._as_answer(500 if read is None else read))

    def _as_answer(self, what: Any) -> dict[str, Any]:
        if isinstance(what, str):
            return {"json": wire_run(self.run, what)}
        if isinstance(what, Exception):
            return {"body": what}
        return {"status": what, "json": {"status": what, "title": "No"}}

    def cancel(self) -> Cancellation:
        """Cancel the run once. A batch gets one slice, which sends one cancel."""
        if self.way == "single":
            cancellations.cancel(self.run, by=actor(self.person))
        else:
            self.start_batch()
            batches.work(self.batch_id)
        return self.first()

    def start_batch(self) -> None:
        by, team = actor(self.person), self.run.team
        if self.way == "hold":
            self.batch = stops.pull(team, reason="too expensive", left_out=[], by=by).batch
        else:
            self.batch = batches.create_batch(
                team, run_ids=[self.run.pk], reason="too expensive", by=by, source=BatchSource.SELECTION
            )

    def open(self) -> Cancellation:
        """As far as a process gets that is killed before it notes that it sends the cancel."""
        if self.way == "single":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("taskruns.services.remote_acts.Place.take", lambda _: False)
                assert cancellations.cancel(self.run, by=actor(self.person)).is_queued
        else:
            self.start_batch()
            assert len(dispatch.open_some(self.batch_id, self.run.task.credential_id, most=5)) == 1
        return self.first()

    @property
    def batch_id(self) -> Any:
        assert self.batch is not None
        return self.batch.pk

    @property
    def posts(self) -> int:
        return sum(call.request.method == "POST" for call in self.arize.calls)

    def first(self) -> Cancellation:
        return Cancellation.objects.select_related("batch").order_by("requested_at").first()  # type: ignore[return-value]

    def outcomes(self, row: Cancellation) -> list[str]:
        return [outcome for _, outcome in events(operation_id=row.pk)]


@pytest.fixture(params=["single", "batch", "hold"])
def stage(request: Any, run: Run, oli: User, arize: responses.RequestsMock) -> Stage:
    return Stage(str(request.param), run, oli, arize)


# --- What happens after the first answer


def sweep_sees(status: str) -> Act:
    def act(stage: Stage) -> None:
        stage.answers(500, status)
        Cancellation.objects.update(look_at=None)  # the next look is due
        cancellations.sweep()

    return act


def list_shows(status: str) -> Act:
    """A round of the mirror reads a list page of the task."""

    def act(stage: Stage) -> None:
        task = Task.objects.get(pk=stage.run.task_id)
        seen = WireRun.from_json(wire_run(stage.run, status))
        record_readings([Reading(task, [seen], timezone.now())])

    return act


def other_is_confirmed(stage: Stage) -> None:
    row = Cancellation.objects.create(run=stage.run, person_label="mona@example.com")
    Cancellation.objects.filter(pk=row.pk).update(outcome=Outcome.CONFIRMED, closed_at=timezone.now())


CUT = requests.ConnectionError("cut")
# Arize's answer to the POST, to the re-read at once, the outcome then, what happens after, and the outcome in the end.
CASES: dict[str, tuple[Any, Any, str, Sequence[Act], str]] = {
    "cancelled": ("CANCELLED", None, "confirmed", (), "confirmed"),
    "finished": ("COMPLETED", None, "finished_first", (), "finished_first"),
    "failed": ("FAILED", None, "failed_first", (), "failed_first"),
    "400, finished": (400, "COMPLETED", "finished_first", (), "finished_first"),
    "400, failed": (400, "FAILED", "failed_first", (), "failed_first"),
    "409, cancelled": (409, "CANCELLED", "already_cancelled", (), "already_cancelled"),
    "400, running": (400, "RUNNING", "refused", (), "refused"),
    "401": (401, None, "refused", (), "refused"),
    "403": (403, None, "refused", (), "refused"),
    "404": (404, None, "refused", (), "refused"),
    "429": (429, None, "refused", (), "refused"),
    "not sent": (requests.ConnectTimeout(), None, "not_sent", (sweep_sees("CANCELLED"),), "not_sent"),
    "stopping, cancelled": ("RUNNING", None, "", (list_shows("RUNNING"), sweep_sees("CANCELLED")), "confirmed"),
    "stopping, finished": ("RUNNING", None, "", (sweep_sees("COMPLETED"),), "finished_first"),
    # Who cancelled it between the lost answer and the re-read cannot be known.
    "500, cancelled": (500, "CANCELLED", "confirmed", (), "confirmed"),
    "cut, finished": (CUT, "COMPLETED", "finished_first", (), "finished_first"),
    "500, unread, cancelled": (500, 500, "unknown", (sweep_sees("CANCELLED"),), "confirmed"),
    "500, unread, failed": (500, 500, "unknown", (sweep_sees("FAILED"),), "failed_first"),
    # Seen active after the POST: someone else cancelled it.
    "500, active, cancelled": (500, "RUNNING", "unknown", (sweep_sees("CANCELLED"),), "already_cancelled"),
    "500, active, finished": (500, "PENDING", "unknown", (sweep_sees("COMPLETED"),), "finished_first"),
    "500, unread, swept active, cancelled": (
        *(500, 500, "unknown"),
        (sweep_sees("RUNNING"), sweep_sees("CANCELLED")),
        "already_cancelled",
    ),
    "500, unread, listed active, cancelled": (
        *(500, 500, "unknown"),
        (list_shows("RUNNING"), sweep_sees("CANCELLED")),
        "already_cancelled",
    ),
    "500, unread, listed active, listed cancelled": (
        *(500, 500, "unknown"),
        (list_shows("RUNNING"), list_shows("CANCELLED"), sweep_sees("CANCELLED")),
        "already_cancelled",
    ),
    "cut, unread, listed cancelled": (
        *(CUT, 500, "unknown"),
        (list_shows("CANCELLED"), sweep_sees("CANCELLED")),
        "confirmed",
    ),
    "cut, unread, another one confirmed": (
        *(CUT, 500, "unknown"),
        (other_is_confirmed, sweep_sees("CANCELLED")),
        "already_cancelled",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_is_true(case: str, stage: Stage) -> None:
    post, read, at_once, later, at_last = CASES[case]
    stage.answers(post, read)
    row = stage.cancel()
    assert row.outcome == at_once
    assert stage.posts == 1
    for act in later:
        act(stage)
    row = stage.first()
    assert row.outcome == at_last
    wanted = ["requested", *dict.fromkeys(it for it in (at_once, at_last) if it)]
    assert stage.outcomes(row) == wanted


# --- A process is killed


def test_a_cancel_that_was_never_sent_says_so(stage: Stage) -> None:
    """Even if the run turns out to be cancelled."""
    row = stage.open()
    assert row.posted_at is None
    stage.answers("CANCELLED", "CANCELLED")
    with time_machine.travel(timezone.now() + timedelta(seconds=110)):
        assert cancellations.sweep() == 0, "a worker may still send it"
    with time_machine.travel(timezone.now() + timedelta(seconds=121)):
        assert cancellations.sweep() == 1
    assert stage.outcomes(row) == ["requested", "not_sent"]
    assert len(stage.arize.calls) == 0


def test_an_unsent_cancel_of_a_killed_worker_returns_to_the_queue(stage: Stage) -> None:
    if stage.way == "single":
        return  # below: the worker sends it
    first = stage.open()
    stage.answers("CANCELLED")
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        batches.work(stage.batch_id)
    assert stage.outcomes(first) == ["requested", "not_sent"]
    second = Cancellation.objects.exclude(pk=first.pk).get()
    assert stage.outcomes(second) == ["requested", "confirmed"]
    assert stage.posts == 1
    item = second.items.get()
    assert (item.state, item.attempts) == ("confirmed", 1)


def test_a_swept_unsent_cancel_returns_to_the_queue(stage: Stage) -> None:
    """All workers were down, and the sweep came first."""
    if stage.way == "single":
        return  # it has no queue
    first = stage.open()
    stage.answers("CANCELLED")
    with time_machine.travel(timezone.now() + timedelta(seconds=121)):
        cancellations.sweep()
        batches.work(stage.batch_id)
    assert stage.outcomes(first) == ["requested", "not_sent"]
    assert (stage.posts, Cancellation.objects.exclude(pk=first.pk).get().outcome) == (1, "confirmed")


def sent_and_killed(stage: Stage) -> Cancellation:
    row = stage.open()
    assert mark_posted([row]) == {row.pk}
    return row


def test_a_killed_sender_is_confirmed_if_nothing_speaks_against_it(stage: Stage) -> None:
    row = sent_and_killed(stage)
    stage.answers(500, "CANCELLED")
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert cancellations.sweep() == 1
    assert stage.outcomes(row) == ["requested", "confirmed"]


def test_a_killed_sender_is_not_credited_for_a_run_that_went_on(stage: Stage) -> None:
    """A list showed the run as running when the POST, if there was one, must have had its effect."""
    row, began = sent_and_killed(stage), timezone.now()
    stage.answers(500, "CANCELLED")
    with time_machine.travel(began + timedelta(seconds=50)):
        list_shows("RUNNING")(stage)
    with time_machine.travel(began + timedelta(seconds=61)):
        assert cancellations.sweep() == 1
    assert stage.outcomes(row) == ["requested", "already_cancelled"]


def test_a_reading_during_the_send_proves_nothing(stage: Stage) -> None:
    row, began = sent_and_killed(stage), timezone.now()
    stage.answers(500, "CANCELLED")
    with time_machine.travel(began + timedelta(seconds=30)):
        list_shows("RUNNING")(stage)
    with time_machine.travel(began + timedelta(seconds=61)):
        cancellations.sweep()
    assert stage.outcomes(row) == ["requested", "confirmed"]


# --- Several cancels of a run


def test_an_unknown_cancel_waits_while_another_one_is_sent(stage: Stage) -> None:
    """The run is cancelled, and the answer to the second cancel will say whether that one did it."""
    stage.answers(500, 500)
    first = stage.cancel()
    second = Cancellation.objects.create(run=stage.run, person_label="mona@example.com", posted_at=timezone.now())
    sweep_sees("CANCELLED")(stage)
    assert stage.first().outcome == Outcome.UNKNOWN
    Cancellation.objects.filter(pk=second.pk).update(outcome=Outcome.CONFIRMED, closed_at=timezone.now())
    sweep_sees("CANCELLED")(stage)
    assert stage.outcomes(first) == ["requested", "unknown", "already_cancelled"]


def test_the_person_is_told_what_the_log_says(run: Run, oli: User, arize: Any) -> None:
    """A re-read shows the run cancelled, but an earlier cancel of it is confirmed."""
    earlier = timezone.now() - timedelta(minutes=5)
    Cancellation.objects.create(
        run=run, outcome="confirmed", requested_at=earlier, posted_at=earlier, closed_at=earlier
    )
    arize.post(run_url(run, "/cancel"), status=500)
    arize.get(run_url(run), json=wire_run(run, "CANCELLED"))
    result = cancellations.cancel(run, by=actor(oli))
    assert result.outcome == events()[-1][1] == "already_cancelled"


@pytest.mark.parametrize("swept", ["confirmed", "unknown"])
def test_a_late_answer_does_not_contradict_the_sweep(swept: str, run: Run, oli: User, arize: Any) -> None:
    def sweep_first(_: Any) -> tuple[int, dict[str, str], str]:
        Cancellation.objects.filter(run=run).update(outcome=swept, closed_at=timezone.now(), explanation="Swept.")
        return 200, {}, json.dumps(wire_run(run, "RUNNING"))

    arize.add_callback("POST", run_url(run, "/cancel"), sweep_first)
    result = cancellations.cancel(run, by=actor(oli))
    assert (result.outcome, result.explanation) == (swept, "Swept.")
    assert events() == [("run.cancel", "requested")]


def test_a_sweep_that_began_before_the_answer_does_not_undo_it(run: Run, oli: User, arize: Any) -> None:
    """The sweep read the cancellation before Arize accepted it."""
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "RUNNING"))
    cancellations.cancel(run, by=actor(oli))
    row = Cancellation.objects.select_related("run__task__credential", "batch").get()
    assert row.stopping_since is not None
    row.stopping_since = None
    assert close(row, Answer(Outcome.UNKNOWN, "lost"), by=SWEEPER) is None
    assert Cancellation.objects.get().outcome == "", "it is still stopping"


def test_a_batch_notes_what_its_re_read_shows(team: Team, run: Run, oli: User, arize: Any) -> None:
    """The lost cancel's run was unreadable, then active: whoever cancels it later, it was not this one."""
    stage = Stage("batch", run, oli, arize)
    stage.answers(500, 500)
    row = stage.cancel()
    stage.answers(403, "RUNNING")
    with time_machine.travel(timezone.now() + timedelta(seconds=10)):
        batches.work(stage.batch_id)
        sweep_sees("CANCELLED")(stage)
    assert stage.outcomes(row) == ["requested", "unknown", "already_cancelled"]


def test_a_joined_item_whose_holder_was_never_sent_is_sent(team: Team, run: Run, oli: User, arize: Any) -> None:
    single = Stage("single", run, oli, arize)
    single.open()
    stage = Stage("batch", run, oli, arize)
    stage.start_batch()
    stage.answers("CANCELLED")
    batches.work(stage.batch_id)
    assert stage.posts == 0
    with time_machine.travel(timezone.now() + timedelta(seconds=121)):
        cancellations.sweep()
        batches.work(stage.batch_id)
    assert stage.posts == 1
    assert dict(Cancellation.objects.values_list("batch", "outcome")) == {None: "not_sent", stage.batch_id: "confirmed"}


def test_a_worker_that_stalled_does_not_send_what_was_closed(run: Run, oli: User, arize: Any) -> None:
    stage = Stage("batch", run, oli, arize)
    row = stage.open()
    with time_machine.travel(timezone.now() + timedelta(seconds=121)):
        cancellations.sweep()
    assert mark_posted([row]) == set()


def test_a_sweep_does_not_close_what_is_being_sent(run: Run, oli: User, arize: Any) -> None:
    """The row was read before the worker marked it."""
    stage = Stage("single", run, oli, arize)
    read_before = stage.open()
    assert mark_posted([stage.first()]) == {read_before.pk}
    answer = cancellations.Answer(Outcome.NOT_SENT)
    assert not close(read_before, answer, by=actor(oli))
    assert stage.first().outcome == Outcome.OPEN
