"""Which facts become messages for whom."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns import jobs
from taskruns.models import Channel, Delivery, DeliveryState, Happening, Rule, Run, RunFact, Status, Task, Team, User
from taskruns.services import cancellations, channels, stops
from taskruns.services.channels import matching
from taskruns.services.channels.actions import Wanted
from taskruns.services.channels.matching import Fact, about, write_deliveries
from taskruns.services.runs.observations import Reading, record_observation, record_readings
from tests.channels.receivers import Receiver
from tests.channels.scene import BY, HOOK, add_channel
from tests.channels.worker import send_due, work_off
from tests.factories import actor, make_run
from tests.runs.readings import reading
from tests.stage import Stage

pytestmark = pytest.mark.django_db


def read(run: Run, status: str, **members: Any) -> None:
    assert record_observation(run, reading(run, status, **members), timezone.now())


def events() -> list[str]:
    return sorted(Delivery.objects.values_list("event", flat=True))


def many(task: Task, number: int) -> list[Run]:
    return [make_run(task, arize_id=f"R{at:04}") for at in range(number)]


def page(task: Task, runs: list[Run], status: str) -> None:
    record_readings([Reading(task, [reading(run, status) for run in runs], timezone.now())])


@pytest.mark.parametrize(
    ("status", "members", "event"),
    [
        ("FAILED", {}, "run.failed"),
        ("CANCELLED", {}, "run.cancelled"),
        ("COMPLETED", {"num_errors": 3}, "run.completed_with_errors"),
    ],
)
def test_the_end_of_a_run_is_told_once(status: str, members: dict[str, Any], event: str, team: Team, run: Run):
    add_channel(team, HOOK)
    read(run, status, **members)
    record_observation(run, reading(run, status, **members, num_skipped=4), timezone.now())
    jobs.match_facts()
    assert events() == [event]
    assert RunFact.objects.count() == 0


def test_a_run_that_completed_without_errors_is_no_news(team: Team, run: Run):
    add_channel(team, HOOK)
    read(run, "COMPLETED", num_errors=0)
    jobs.match_facts()
    assert events() == []


def test_too_small_a_share_of_errors_is_no_news(team: Team, task: Task):
    add_channel(team, HOOK, min_error_share=20)
    first, second = many(task, 2)
    read(first, "COMPLETED", num_successes=90, num_errors=10)
    read(second, "COMPLETED", num_successes=80, num_errors=20)
    jobs.match_facts()
    assert Delivery.objects.get().run == second


def test_a_rule_with_a_filter_is_told_of_runs_that_match(team: Team, task: Task):
    other = Task.objects.create(team=team, endpoint=task.endpoint, arize_id="other", name="Toxicity")
    add_channel(team, HOOK, query="q=toxic")
    hit, miss = make_run(other), make_run(task)
    read(hit, "FAILED")
    read(miss, "FAILED")
    jobs.match_facts()
    assert Delivery.objects.get().run == hit


def test_without_a_rule_nothing_is_written(team: Team, other_team: Team, run: Run):
    add_channel(other_team, HOOK)
    add_channel(team, HOOK, events=("stop.pull",))
    read(run, "FAILED")
    assert RunFact.objects.count() == 0


def test_another_teams_channel_is_not_told(team: Team, other_team: Team, run: Run):
    add_channel(team, HOOK)
    add_channel(other_team, HOOK)
    read(run, "FAILED")
    jobs.match_facts()
    assert Delivery.objects.get().team == team


def test_history_of_a_new_key_is_no_news(team: Team, task: Task):
    add_channel(team, HOOK)
    Rule.objects.update(since=timezone.now() - timedelta(days=30))
    old, new = make_run(task, arize_id="old"), make_run(task, arize_id="new")
    Run.objects.all().delete()
    ended = timezone.now() - timedelta(hours=2)
    seen = [
        reading(old, "FAILED", run_finished_at=ended.isoformat()),
        reading(new, "FAILED", run_finished_at=timezone.now().isoformat()),
    ]
    record_readings([Reading(task, seen, timezone.now())])
    jobs.match_facts()
    assert [row.data["run_id"] for row in Delivery.objects.all()] == ["new"]


def test_a_run_that_started_and_failed_between_readings_is_told(team: Team, task: Task):
    add_channel(team, HOOK)
    Rule.objects.update(since=timezone.now() - timedelta(days=30))
    task.caught_up_at = timezone.now() - timedelta(hours=3)
    run = make_run(task, arize_id="between")
    Run.objects.all().delete()
    ended = (timezone.now() - timedelta(hours=2)).isoformat()
    record_readings([Reading(task, [reading(run, "FAILED", run_finished_at=ended)], timezone.now())])
    jobs.match_facts()
    assert events() == ["run.failed"]


def test_runs_read_on_demand_are_no_news(team: Team, task: Task):
    add_channel(team, HOOK)
    run = make_run(task, arize_id="asked")
    Run.objects.all().delete()
    now = timezone.now()
    seen = [reading(run, "FAILED", run_finished_at=now.isoformat())]
    record_readings([Reading(task, seen, now, on_demand=True)])
    assert RunFact.objects.count() == 0


def test_a_thousand_failures_make_one_message_and_one_summary(team: Team, task: Task, receiver: Receiver):
    add_channel(team, receiver.url, quiet_minutes=10)
    runs = many(task, 1_000)
    for at in range(0, 1_000, 100):
        page(task, runs[at : at + 100], "FAILED")
    work_off()
    assert len(receiver.received) == 1
    assert Delivery.objects.filter(state=DeliveryState.HELD).count() == 999
    with time_machine.travel(timezone.now() + timedelta(minutes=10, seconds=1)):
        work_off()
        first, summary = (got.json for got in receiver.received)
        work_off()
    assert len(receiver.received) == 2
    assert first["type"] == "run.failed"
    assert (summary["type"], summary["data"]["number"]) == ("summary", 999)
    assert summary["data"]["by_event"] == {"run.failed": 999}
    assert not Delivery.objects.exclude(state=DeliveryState.SENT).exists()


def test_one_held_message_is_sent_itself(team: Team, task: Task, receiver: Receiver):
    add_channel(team, receiver.url, quiet_minutes=10)
    for run in many(task, 2):
        read(run, "FAILED")
    work_off()
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        work_off()
    assert [got.json["type"] for got in receiver.received] == ["run.failed", "run.failed"]


def test_two_workers_and_a_repeated_match_make_one_delivery(team: Team, run: Run):
    add_channel(team, HOOK)
    read(run, "FAILED")
    (fact,) = RunFact.objects.all()
    jobs.match_facts()
    fact.save(force_insert=True)  # as if the other worker had read it before it was deleted
    jobs.match_facts()
    assert Delivery.objects.count() == 1


def test_what_the_log_records_is_told_with_person_and_reason(stage: Stage, receiver: Receiver):
    team, oli = stage.team, stage.people["oli"]
    stage.arize.add_passthru("http://127.0.0.1")
    add_channel(team, receiver.url, events=("stop.pull", "run.cancel", "run.cancel_many", "credential.failing"))
    cancellations.cancel(stage.run, by=actor(oli), reason="too expensive")
    stops.pull(team, reason="quota is gone", left_out=[], by=actor(oli))
    work_off()
    told = {got.json["type"]: got.json["data"] for got in receiver.received}
    assert set(told) == {"run.cancel", "stop.pull"}
    cancel = told["run.cancel"]
    assert (cancel["who"], cancel["why"], cancel["outcome"]) == ("oli@example.com", "too expensive", "confirmed")
    assert cancel["run_id"] == stage.run.arize_id
    assert (told["stop.pull"]["who"], told["stop.pull"]["why"]) == ("oli@example.com", "quota is gone")
    work_off()
    assert len(receiver.received) == 2


def test_the_log_before_the_channel_is_not_told(stage: Stage, receiver: Receiver):
    stops.pull(stage.team, reason="before", left_out=[], by=actor(stage.people["oli"]))
    add_channel(stage.team, receiver.url)
    stops.lift(stage.team, by=actor(stage.people["mona"], "manager"))
    add_channel(stage.team, receiver.url, name="Lifts", events=("stop.lift",))
    work_off()
    assert receiver.received == []


def test_a_muted_or_turned_off_channel_counts_what_it_misses(team: Team, task: Task, mona: User):
    muted, off = add_channel(team, HOOK, name="Muted"), add_channel(team, HOOK, name="Off")
    channels.mute(muted, until=timezone.now() + timedelta(hours=1), by=BY)
    channels.change(off, name="Off", is_on=False, address="", by=BY)
    for run in many(task, 2):
        read(run, "FAILED")
    jobs.match_facts()
    assert Delivery.objects.count() == 0
    for channel in (muted, off):
        channel.refresh_from_db()
        assert channel.missed == 2


def test_a_mute_ends_by_itself(team: Team, run: Run):
    channel = add_channel(team, HOOK)
    channels.mute(channel, until=timezone.now() + timedelta(hours=1), by=BY)
    with time_machine.travel(timezone.now() + timedelta(hours=2)):
        read(run, "FAILED")
        jobs.match_facts()
    assert Delivery.objects.count() == 1


def test_a_changed_rule_tells_only_what_happens_from_then_on(team: Team, run: Run):
    channel = add_channel(team, HOOK)
    read(run, "FAILED")
    with time_machine.travel(timezone.now() + timedelta(seconds=1)):
        channels.save_rule(channel, Wanted(("run.failed",)), rule=channel.rules.get(), by=BY)
        jobs.match_facts()
    assert Delivery.objects.count() == 0


def test_a_page_of_ended_runs_writes_all_facts_with_one_insert(team: Team, task: Task):
    add_channel(team, HOOK)
    runs = many(task, 50)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        page(task, runs, "FAILED")
    assert sum('INSERT INTO "taskruns_runfact"' in query["sql"] for query in asked) == 1
    assert sum("taskruns_rule" in query["sql"] for query in asked) == 1
    assert RunFact.objects.count() == 50


def test_a_gone_run_is_no_failure(team: Team, run: Run):
    from taskruns.services.runs.observations import record_gone

    add_channel(team, HOOK)
    assert record_gone(run, timezone.now())
    run.refresh_from_db()
    assert run.status == Status.GONE
    assert RunFact.objects.count() == 0


def test_summary_waits_until_the_quiet_time_is_over(team: Team, task: Task, receiver: Receiver):
    add_channel(team, receiver.url, quiet_minutes=10)
    for run in many(task, 3):
        read(run, "FAILED")
    work_off()
    with time_machine.travel(timezone.now() + timedelta(minutes=9)):
        jobs.match_facts()
        send_due()
    assert len(receiver.received) == 1


def test_a_rule_saved_by_a_clock_that_was_ahead_is_told(team: Team, run: Run):
    add_channel(team, HOOK)
    Rule.objects.update(since=timezone.now() + timedelta(days=1))
    read(run, "FAILED")
    jobs.match_facts()
    assert events() == ["run.failed"]


def test_a_quiet_time_begun_by_a_clock_that_was_ahead_is_over(team: Team, run: Run, receiver: Receiver):
    add_channel(team, receiver.url, quiet_minutes=5)
    Rule.objects.update(quiet_until=timezone.now() + timedelta(hours=5))
    read(run, "FAILED")
    work_off()
    assert len(receiver.received) == 1


def test_a_shortened_quiet_time_holds_no_longer_than_it_says(team: Team, task: Task, receiver: Receiver):
    channel = add_channel(team, receiver.url, quiet_minutes=1_000)
    for run in many(task, 3):
        read(run, "FAILED")
    work_off()
    assert len(receiver.received) == 1, "the control"
    channels.save_rule(channel, Wanted(("run.failed",), quiet_minutes=0), rule=channel.rules.get(), by=BY)
    work_off()
    assert [got.json["type"] for got in receiver.received] == ["run.failed", "summary"]


def test_a_quiet_time_that_another_worker_has_just_begun_holds(team: Team, run: Run):
    """The rule was loaded before."""
    add_channel(team, HOOK, quiet_minutes=5)
    loaded = Rule.objects.select_related("channel").get()
    Rule.objects.update(quiet_until=timezone.now() + timedelta(minutes=5))
    write_deliveries(team, loaded, [Fact(Happening.RUN_FAILED, timezone.now(), str(run.pk), run, about(run))])
    assert Delivery.objects.get().state == DeliveryState.HELD


def test_a_summary_that_a_mute_drops_takes_its_messages_along(team: Team, task: Task, receiver: Receiver):
    """The mute came after the summary was made."""
    add_channel(team, receiver.url, quiet_minutes=5)
    for run in many(task, 4):
        read(run, "FAILED")
    work_off()
    with time_machine.travel(timezone.now() + timedelta(minutes=6)):
        jobs.match_facts()
        Channel.objects.update(muted_until=timezone.now() + timedelta(minutes=10))
        work_off()
    with time_machine.travel(timezone.now() + timedelta(minutes=30)):
        work_off()
    assert [got.json["type"] for got in receiver.received] == ["run.failed"]
    assert not Delivery.objects.exclude(state=DeliveryState.SENT).exists()


def test_a_summary_that_is_just_being_sent_keeps_its_messages(team: Team, task: Task, receiver: Receiver):
    channel = add_channel(team, receiver.url, quiet_minutes=5)
    for run in many(task, 4):
        read(run, "FAILED")
    work_off()
    with time_machine.travel(timezone.now() + timedelta(minutes=6)):
        jobs.match_facts()
        Delivery.objects.filter(event="summary").update(state=DeliveryState.SENDING)
        channels.mute(channel, until=timezone.now() + timedelta(minutes=10), by=BY)
    channel.refresh_from_db()
    assert (channel.missed, Delivery.objects.filter(state=DeliveryState.HELD).count()) == (0, 3)


def test_one_transaction_writes_no_more_messages_than_it_may(team: Team, task: Task, monkeypatch: pytest.MonkeyPatch):
    """Else many rules would hold the lock of the database for a minute."""
    monkeypatch.setattr(matching, "MOST_ROWS", 4)
    add_channel(team, HOOK)
    add_channel(team, HOOK, name="Second")
    page(task, many(task, 5), "FAILED")
    counts = []
    while True:
        has_more = jobs.match_facts()
        counts.append(Delivery.objects.count())
        if not has_more:
            break
    assert counts == [4, 8, 10]
