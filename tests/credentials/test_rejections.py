"""One 401 may be a fault of Arize: a key is marked as failing at the second look, and tried again until it works."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.utils import timezone

from taskruns.arize.triggers import EvaluationTrigger
from taskruns.audit import Actor
from taskruns.models import AuditEvent, BatchSource, CancelItem, Credential, Run, Task, Team, User
from taskruns.services import batches, cancellations, credentials, mirror, stops, triggers
from taskruns.services.credentials.health import SECOND_LOOK, TRIED_AGAIN, KeyState, state_of
from tests.clients import ClientOf
from tests.factories import CANARY, actor
from tests.stored import events
from tests.wire import ENDPOINT, run_url, trigger_url, wire_run

SHELL = Actor.command()
Use = Callable[[Run, User], Any]


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        yield clock


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:
    settings.CANCELS_PER_SECOND = 1_000


class Arize:
    """Accepts the key, or rejects it with 401 everywhere."""

    def __init__(self, double: responses.RequestsMock, run: Run) -> None:
        self.double, self.run = double, run
        self.accept()

    def accept(self) -> None:
        self._answer(None)

    def reject(self) -> None:
        self._answer(401)

    def fail(self) -> None:
        self._answer(503)

    def _answer(self, status: int | None) -> None:
        self.double.reset()
        run, nothing = self.run, {"pagination": {"has_more": False}}
        documents = {
            ("GET", f"{ENDPOINT}/v2/spaces"): nothing | {"spaces": []},
            ("GET", f"{ENDPOINT}/v2/tasks"): nothing | {"tasks": []},
            ("GET", f"{ENDPOINT}/v2/tasks/{run.task.arize_id}/runs"): nothing | {"task_runs": [wire_run(run)]},
            ("GET", run_url(run)): wire_run(run),
            ("POST", run_url(run, "/cancel")): wire_run(run, "CANCELLED"),
            ("POST", trigger_url(run.task)): wire_run(run, "PENDING", id="new"),
        }
        for (method, url), document in documents.items():
            self.double.add(method, url, body=json.dumps(document), status=status or 200)

    @property
    def calls(self) -> int:
        return len(self.double.calls)


@pytest.fixture
def world(arize: responses.RequestsMock, run: Run) -> Arize:
    return Arize(arize, run)


def read(run: Run, _: User) -> None:
    Credential.objects.update(next_refresh_at=timezone.now())
    mirror.refresh(run.task.credential_id)


def cancel(run: Run, by: User) -> None:
    cancellations.cancel(run, by=actor(by))


def trigger(run: Run, by: User) -> None:
    triggers.trigger(run.task, operation=uuid.uuid4(), wanted=EvaluationTrigger(), by=actor(by))


def cancel_in_batch(run: Run, by: User) -> None:
    if not CancelItem.objects.exists():
        batches.create_batch(run.team, run_ids=[run.pk], reason="", by=actor(by), source=BatchSource.SELECTION)
    batches.work(CancelItem.objects.get().batch_id)


def hold(run: Run, by: User) -> None:
    if not CancelItem.objects.exists():
        stops.pull(run.team, reason="too expensive", left_out=[], by=actor(by))
    batches.work(CancelItem.objects.get().batch_id)


USES: dict[str, Use] = {"round": read, "cancel": cancel, "start": trigger, "batch": cancel_in_batch, "hold": hold}


@pytest.mark.parametrize("use", USES)
def test_a_key_fails_at_the_second_look(use: str, run: Run, oli: User, world: Arize, clock: Any) -> None:
    world.reject()
    USES[use](run, oli)
    key = Credential.objects.get()
    assert (key.failing_since, key.rejected_at) == (None, timezone.now())
    assert key.next_refresh_at == timezone.now() + SECOND_LOOK, "the mirror looks, if nobody else does"
    clock.shift(11)
    USES[use](run, oli)
    key.refresh_from_db()
    assert (key.failing_since, key.rejected_at) == (timezone.now(), None)
    assert events(event="credential.failing") == [("credential.failing", "done")]


@pytest.mark.parametrize("use", USES)
def test_one_rejection_takes_no_key_out(use: str, run: Run, oli: User, world: Arize, clock: Any) -> None:
    world.reject()
    USES[use](run, oli)
    world.accept()
    clock.shift(11)
    read(run, oli)
    key = Credential.objects.get()
    assert (key.failing_since, key.rejected_at, events(event="credential.failing")) == (None, None, [])
    world.reject()
    read(run, oli)
    assert Credential.objects.get().failing_since is None, "that was another first one"


def test_the_answers_of_one_moment_are_one_rejection(run: Run, oli: User, world: Arize, clock: Any) -> None:
    world.reject()
    for _ in range(3):
        cancel(run, oli)
        read(run, oli)
        clock.shift(2)
    assert Credential.objects.get().failing_since is None


def test_a_rejection_from_a_clock_that_was_ahead_is_forgotten(run: Run, oli: User, world: Arize, clock: Any) -> None:
    world.reject()
    Credential.objects.update(rejected_at=timezone.now() + timedelta(hours=1))
    read(run, oli)
    clock.shift(11)
    read(run, oli)
    assert Credential.objects.get().failing_since is not None


def test_a_rejection_after_an_accepted_call_is_a_first_one(run: Run, oli: User, world: Arize, clock: Any) -> None:
    """Also if the round that was accepted ended with another 401."""
    world.reject()
    read(run, oli)
    clock.shift(5)
    Credential.objects.update(last_good_at=timezone.now())
    clock.shift(5)
    cancel(run, oli)
    key = Credential.objects.get()
    assert (key.failing_since, key.rejected_at) == (None, timezone.now())
    clock.shift(10)
    Credential.objects.update(last_good_at=timezone.now() + timedelta(hours=1))  # written by a clock that was ahead
    cancel(run, oli)
    assert Credential.objects.get().failing_since is not None


def test_a_rejected_cancel_of_a_batch_is_sent_after_all(run: Run, oli: User, world: Arize, clock: Any) -> None:
    world.reject()
    cancel_in_batch(run, oli)
    assert CancelItem.objects.get().state == "queued"
    world.accept()
    clock.shift(11)
    cancel_in_batch(run, oli)
    assert CancelItem.objects.get().state == "confirmed"
    assert Credential.objects.get().rejected_at is None


@pytest.mark.parametrize("way", [cancel_in_batch, hold])
def test_batches_and_holds_go_on_after_the_recovery(way: Use, run: Run, oli: User, world: Arize, clock: Any) -> None:
    world.reject()
    for _ in range(2):
        way(run, oli)
        clock.shift(11)
    assert Credential.objects.get().failing_since is not None
    calls = world.calls
    way(run, oli)
    assert world.calls == calls, "a failing key is not used"
    world.accept()
    clock.shift(900)
    assert mirror.due(timezone.now()) == [run.task.credential_id]
    mirror.refresh(run.task.credential_id)
    way(run, oli)
    assert CancelItem.objects.get().state == "confirmed"


# --- Trying again


@pytest.fixture
def failing(credential: Credential, world: Arize, clock: Any) -> Credential:
    world.reject()
    credentials.mark_failing(credential, sentence="Arize says no.", by=SHELL)
    credential.refresh_from_db()
    return credential


def test_a_failing_key_is_tried_again_with_one_call(failing: Credential, world: Arize, clock: Any) -> None:
    for _ in range(3):
        failing.refresh_from_db()
        wait = failing.retry_at - timezone.now()
        assert TRIED_AGAIN[0] <= wait <= TRIED_AGAIN[1]
        clock.shift(wait - timedelta(seconds=1))
        assert (mirror.due(timezone.now()), mirror.refresh(failing.pk)) == ([], None)
        clock.shift(1)
        calls = world.calls
        report = mirror.refresh(failing.pk)
        assert report is not None
        assert (report.unauthorized, world.calls) == (True, calls + 1)
    assert events() == [("credential.failing", "done")]


def test_keys_that_failed_together_are_not_tried_together(failing: Credential) -> None:
    times = set()
    for _ in range(5):
        Credential.objects.update(failing_since=None)
        credentials.mark_failing(failing, sentence="no", by=SHELL)
        times.add(Credential.objects.get().retry_at)
    assert len(times) == 5


def test_an_unreachable_arize_says_nothing_about_the_key(failing: Credential, world: Arize, clock: Any) -> None:
    world.fail()
    clock.shift(900)
    mirror.refresh(failing.pk)
    assert Credential.objects.get().failing_since is not None


def test_a_recovery_is_recorded_logged_and_shown(
    failing: Credential, mona: User, client_of: ClientOf, world: Arize, clock: Any, caplog: Any
) -> None:
    page = client_of(mona).get("/teams/ops-north/credentials/").content.decode()
    assert "Next automatic attempt" in page
    world.accept()
    clock.shift(900)
    assert mirror.refresh(failing.pk) is not None
    row = AuditEvent.objects.get(event="credential.recovered")
    assert (row.outcome, row.actor_type, row.actor_label) == ("done", "job", "mirror")
    assert (row.credential_id, row.team_id) == (failing.pk, failing.team_id)
    assert "key_recovered" in caplog.text
    key = Credential.objects.get()
    assert (key.failing_since, key.retry_at, key.recovered_at) == (None, None, timezone.now())
    assert mirror.due(timezone.now()) == [key.pk], "reading begins at once"
    page = client_of(mona).get("/teams/ops-north/credentials/").content.decode()
    assert "Accepted again since" in page
    assert CANARY not in page


def test_a_key_that_may_not_list_spaces_recovers_with_its_tasks(
    failing: Credential, arize: responses.RequestsMock, clock: Any
) -> None:
    arize.reset()
    arize.get(f"{ENDPOINT}/v2/spaces", status=403)
    arize.get(f"{ENDPOINT}/v2/tasks", status=401)
    clock.shift(900)
    mirror.refresh(failing.pk)
    assert Credential.objects.get().failing_since is not None
    arize.replace("GET", f"{ENDPOINT}/v2/tasks", json={"tasks": [], "pagination": {"has_more": False}})
    clock.shift(900)
    mirror.refresh(failing.pk)
    assert Credential.objects.get().failing_since is None


def test_the_recovery_of_a_replaced_key_is_not_recorded(failing: Credential, team: Team) -> None:
    credentials.replace(failing, key="ak-new-1Xy7Qz4Mn8Lk2Jh5", expires_on=None, by=SHELL)
    stale = Credential.objects.get()
    Credential.objects.update(failing_since=timezone.now(), ciphertext="other")
    assert not credentials.note_recovered(stale, by=SHELL)


def test_the_command_that_reads_with_a_failing_key_records_its_recovery(
    failing: Credential, world: Arize, task: Task, clock: Any
) -> None:
    world.accept()
    mirror.refresh(failing.pk, force=True)
    assert events(event="credential.recovered") == [("credential.recovered", "done")]
    assert Credential.objects.get().failing_since is None


def test_a_key_that_waits_for_as_long_as_it_may_is_waiting_at_once(credential: Credential) -> None:
    now = timezone.now()
    for seconds, state in ((299, KeyState.WAITING), (60, KeyState.WAITING), (900, KeyState.NEW)):
        credential.backoff_until = now + timedelta(seconds=seconds)
        assert state_of(credential, now) is state
