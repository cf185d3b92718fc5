"""What only time brings: once for each episode, and never by an old reading."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from taskruns.models import (
    BatchState,
    CancelBatch,
    CancelItem,
    Cancellation,
    Channel,
    Credential,
    Delivery,
    EmergencyStop,
    Episode,
    ItemState,
    Outcome,
    Restore,
    Rule,
    Run,
    Status,
    Task,
    Team,
)
from taskruns.services import channels
from taskruns.services.channels import episodes
from tests.channels.scene import BY, HOOK, add_channel
from tests.factories import make_run

pytestmark = pytest.mark.django_db
ACTIVE = ("run.longer_than_usual", "run.running_longer_than", "run.pending_longer_than", "run.no_progress")


def minutes_ago(minutes: float) -> Any:
    return timezone.now() - timedelta(minutes=minutes)


def active(task: Task, status: Status, minutes: float, **fields: Any) -> Run:
    """Read a moment ago."""
    began = minutes_ago(minutes)
    started = began if status == Status.RUNNING else None
    known = {"created_at": began, "run_started_at": started, "observed_at": timezone.now()}
    return make_run(task, status=status, **known | {"progress_changed_at": timezone.now()} | fields)


def told() -> list[str]:
    channels.notice_time()
    return sorted(Delivery.objects.values_list("event", flat=True))


@pytest.mark.parametrize(
    ("event", "status", "minutes", "fields"),
    [
        ("run.longer_than_usual", Status.RUNNING, 21, {}),
        ("run.running_longer_than", Status.RUNNING, 61, {}),
        ("run.pending_longer_than", Status.PENDING, 11, {}),
        ("run.no_progress", Status.RUNNING, 15, {"progress_changed_at": 11}),
    ],
)
def test_a_threshold_is_told_once_when_it_is_passed(
    event: str, status: Status, minutes: float, fields: dict[str, int], team: Team, task: Task
):
    Task.objects.filter(pk=task.pk).update(usual_seconds=600)
    add_channel(team, HOOK, events=(event,))
    changed = {name: minutes_ago(ago) for name, ago in fields.items()}
    run = active(task, status, minutes, **changed)
    early = {name: minutes_ago(ago - 2) for name, ago in fields.items()}
    active(task, status, minutes - 2, **early)
    assert told() == [event]
    assert Delivery.objects.get().run == run
    with time_machine.travel(timezone.now() + timedelta(seconds=30)):
        assert told() == [event], "once for each episode"


def test_a_new_beginning_is_told_again(team: Team, task: Task):
    add_channel(team, HOOK, events=("run.no_progress",))
    run = active(task, Status.RUNNING, 60, progress_changed_at=minutes_ago(15))
    assert len(told()) == 1
    Run.objects.filter(pk=run.pk).update(progress_changed_at=minutes_ago(11))
    assert len(told()) == 2


def test_an_old_reading_decides_nothing(team: Team, task: Task):
    add_channel(team, HOOK, events=ACTIVE)
    run = active(task, Status.RUNNING, 300, observed_at=minutes_ago(2), progress_changed_at=minutes_ago(200))
    assert told() == []
    Run.objects.filter(pk=run.pk).update(observed_at=timezone.now())
    assert told() == ["run.no_progress", "run.running_longer_than"], "the control"


def test_each_rule_has_its_own_threshold_and_filter(team: Team, task: Task):
    add_channel(team, HOOK, name="Late", events=("run.running_longer_than",), running_minutes=30)
    add_channel(team, HOOK, name="Later", events=("run.running_longer_than",), running_minutes=90)
    add_channel(team, HOOK, name="Others", events=("run.running_longer_than",), running_minutes=30, query="q=toxic")
    active(task, Status.RUNNING, 45)
    told()
    assert [row.channel.name for row in Delivery.objects.select_related("channel")] == ["Late"]


def test_ended_runs_are_left_out(team: Team, task: Task):
    add_channel(team, HOOK, events=ACTIVE)
    active(task, Status.COMPLETED, 300, run_started_at=minutes_ago(300), run_finished_at=minutes_ago(1))
    assert told() == []


def test_a_cancel_that_is_tried_again_is_not_told_yet(team: Team, run: Run):
    """Arize refuses with 429 most cancels of a large batch at first."""
    add_channel(team, HOOK, events=("cancel.not_stopped",))
    Rule.objects.update(since=minutes_ago(600))
    of_run = {"run": run, "person_label": "oli@example.com"}
    first = Cancellation.objects.create(**of_run, outcome=Outcome.REFUSED, closed_at=minutes_ago(0.1))
    batch = CancelBatch.objects.create(team=team, source="selection", state=BatchState.WORKING)
    item = CancelItem.objects.create(batch=batch, run=run, cancellation=first, state=ItemState.QUEUED)
    assert told() == []
    second = Cancellation.objects.create(**of_run, outcome=Outcome.CONFIRMED, closed_at=timezone.now())
    CancelItem.objects.filter(pk=item.pk).update(cancellation=second, state=Outcome.CONFIRMED)
    assert told() == []
    Cancellation.objects.filter(pk=second.pk).update(outcome=Outcome.REFUSED)
    assert told() == ["cancel.not_stopped"], "the control"


def test_a_later_cancel_that_could_not_be_sent_hides_no_earlier_one(team: Team, run: Run):
    add_channel(team, HOOK, events=("cancel.not_stopped",))
    Rule.objects.update(since=minutes_ago(600))
    for outcome, minutes in ((Outcome.UNKNOWN, 5), (Outcome.NOT_SENT, 4)):
        Cancellation.objects.create(
            run=run, person_label="oli@example.com", outcome=outcome, closed_at=minutes_ago(minutes)
        )
    assert told() == ["cancel.not_stopped"]


@pytest.mark.parametrize(
    ("outcome", "minutes", "is_told"),
    [
        (Outcome.STILL_RUNNING, 0.1, True),
        (Outcome.REFUSED, 0.1, True),
        (Outcome.UNKNOWN, 1.9, False),
        (Outcome.UNKNOWN, 2.1, True),
        (Outcome.CONFIRMED, 3, False),
        (Outcome.REFUSED, 120, False),
    ],
)
def test_a_cancel_that_stopped_nothing_is_told_once(
    outcome: Outcome, minutes: float, is_told: int, team: Team, run: Run
):
    add_channel(team, HOOK, events=("cancel.not_stopped",))
    Rule.objects.update(since=minutes_ago(600))
    Cancellation.objects.create(
        run=run, person_label="oli@example.com", reason="why", outcome=outcome, closed_at=minutes_ago(minutes)
    )
    assert told() == ["cancel.not_stopped"] * is_told
    assert told() == ["cancel.not_stopped"] * is_told
    if is_told:
        data = Delivery.objects.get().data
        assert (data["who"], data["why"], data["outcome"]) == ("oli@example.com", "why", outcome.value)


def test_a_stop_that_ends_within_the_hour_is_told_once(team: Team):
    add_channel(team, HOOK, events=("stop.expiring",))
    stop = EmergencyStop.objects.create(
        team=team, person_label="oli", expires_at=timezone.now() + timedelta(minutes=61)
    )
    assert told() == []
    EmergencyStop.objects.filter(pk=stop.pk).update(expires_at=timezone.now() + timedelta(minutes=59))
    assert told() == told() == ["stop.expiring"]


def test_an_unreachable_arize_is_told_after_five_minutes_and_so_is_its_return(team: Team, credential: Credential):
    add_channel(team, HOOK, events=("arize.unreachable", "arize.recovered"))
    keys = Credential.objects.filter(pk=credential.pk)
    keys.update(failures=3, backoff_since=minutes_ago(4.9), backoff_reason="Arize did not answer.")
    assert told() == []
    keys.update(backoff_since=minutes_ago(5.1))
    assert told() == told() == ["arize.unreachable"]
    keys.update(failures=0, backoff_since=None)
    assert told() == told() == ["arize.recovered", "arize.unreachable"]
    assert Episode.objects.get().ended_at is not None


@pytest.mark.parametrize("fields", [{"backoff_is_limit": True}, {"failing_since": timezone.now()}])
def test_a_rate_limit_and_a_rejected_key_are_not_unreachable(
    fields: dict[str, Any], team: Team, credential: Credential
):
    add_channel(team, HOOK, events=("arize.unreachable",))
    Credential.objects.update(failures=3, backoff_since=minutes_ago(10), **fields)
    assert told() == []


def test_a_recovery_alone_is_told_too(team: Team, credential: Credential):
    add_channel(team, HOOK, events=("arize.recovered",))
    Credential.objects.update(failures=3, backoff_since=minutes_ago(10))
    assert told() == []
    Credential.objects.update(failures=0, backoff_since=None)
    assert told() == ["arize.recovered"]


def test_what_a_muted_channel_misses_is_not_told_after_the_mute(team: Team, task: Task):
    channel = add_channel(team, HOOK, events=("run.running_longer_than",))
    channels.mute(channel, until=timezone.now() + timedelta(minutes=1), by=BY)
    run = active(task, Status.RUNNING, 61)
    assert told() == told() == []
    assert Channel.objects.get().missed == 1
    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        Run.objects.filter(pk=run.pk).update(observed_at=timezone.now())
        assert told() == []


def test_time_rests_with_the_panel(team: Team, task: Task):
    add_channel(team, HOOK, events=("run.running_longer_than",))
    active(task, Status.RUNNING, 61)
    Restore.objects.create(restored_by="root", backup="0" * 64, backup_made_at=timezone.now())
    assert told() == []
    Restore.objects.all().delete()
    assert told() == ["run.running_longer_than"], "the control"


def test_only_rules_that_ask_for_it_cost_anything(team: Team):
    channel = add_channel(team, HOOK, events=("run.failed",))
    assert not episodes.asks_for_time()
    channels.save_rule(channel, channels.actions.Wanted(("stop.expiring",)), by=BY)
    assert episodes.asks_for_time()


def test_old_episodes_are_forgotten(team: Team):
    add_channel(team, HOOK, events=("stop.expiring",))
    EmergencyStop.objects.create(team=team, person_label="oli", expires_at=timezone.now() + timedelta(minutes=5))
    told()
    episodes.forget_old()
    assert Episode.objects.count() == 1
    Episode.objects.update(created_at=timezone.now() - timedelta(days=401))
    episodes.forget_old()
    assert Episode.objects.count() == 0
