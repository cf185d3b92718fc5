"""When a key is read, how much, and by which worker."""

import threading
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest
from django.utils import timezone

from taskruns.models import Cancellation, Credential, EmergencyStop, Run, Status, Task, Team
from taskruns.services.mirror import RoundReport, due, reader, refresh
from taskruns.services.mirror.nudges import nudge
from tests.arize_server import ArizeServer, serving
from tests.factories import make_credential, make_run
from tests.fake_arize import START, World, failing
from tests.stored import events
from tests.threads import in_threads


def wait_of(credential: Credential) -> float:
    """Seconds until the key is due again."""
    credential.refresh_from_db()
    until = max(credential.next_refresh_at, credential.backoff_until or credential.next_refresh_at)
    return (until - timezone.now()).total_seconds()


def report_of(report: RoundReport | None) -> RoundReport:
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("is_watched", "is_active", "seconds"), [(True, False, 5), (True, True, 5), (False, True, 30), (False, False, 300)]
)
def test_attention_decides_the_pace(
    is_watched: Any, is_active: Any, seconds: int, credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1")
    if is_active:
        world.run("R1")
    if is_watched:
        Team.objects.update(watched_at=START - timedelta(seconds=14))
    assert due(timezone.now()) == [credential.pk]
    refresh(credential.pk)
    assert wait_of(credential) == seconds
    clock.shift(seconds - 2)
    assert due(timezone.now()) == []
    assert refresh(credential.pk) is None
    clock.shift(2)
    assert due(timezone.now()) == [credential.pk]


def test_attention_ends_after_fifteen_seconds(credential: Credential, world: World) -> None:
    Team.objects.update(watched_at=START - timedelta(seconds=16))
    refresh(credential.pk)
    assert wait_of(credential) == 300


def test_a_team_under_an_emergency_stop_is_read_as_if_a_board_was_open(credential: Credential, world: World) -> None:
    stop = EmergencyStop.objects.create(team=credential.team, person_label="oli@example.com", reason="why")
    refresh(credential.pk)
    assert wait_of(credential) == 5
    EmergencyStop.objects.filter(pk=stop.pk).update(end="lifted")
    Credential.objects.update(next_refresh_at=timezone.now())
    refresh(credential.pk)
    assert wait_of(credential) == 300


def test_a_time_that_is_asked_for_during_a_round_stays(credential: Credential, world: World, clock: Any) -> None:
    """For example by Arize's webhook: without it, this key would rest for five minutes."""
    world.task("T1")
    refresh(credential.pk)
    clock.shift(300)

    def ask(_call: str) -> None:
        clock.shift(1)
        assert nudge(credential.team, ["T1"]) == [credential.pk]

    world.before_answer = ask
    refresh(credential.pk)
    assert wait_of(credential) == 0
    assert credential.claimed_until is None
    world.before_answer = lambda _call: None
    assert refresh(credential.pk) is not None
    assert wait_of(credential) == 300


def test_runs_of_another_key_do_not_speed_up_this_one(credential: Credential, world: World) -> None:
    other = make_credential(credential.team, name="Other")
    make_run(Task.objects.create(team=credential.team, endpoint=credential.endpoint, arize_id="T9", credential=other))
    refresh(credential.pk)
    assert wait_of(credential) == 300


def test_the_claim_of_a_killed_worker_expires(credential: Credential, world: World, clock: Any) -> None:
    Credential.objects.update(claimed_until=timezone.now() + timedelta(seconds=40))
    clock.shift(39)
    assert refresh(credential.pk) is None
    assert due(timezone.now()) == []
    clock.shift(1)
    assert report_of(refresh(credential.pk)).problem == ""
    credential.refresh_from_db()
    assert credential.claimed_until is None


def test_a_command_waits_for_no_claim(credential: Credential, world: World) -> None:
    later = timezone.now() + timedelta(minutes=1)
    Credential.objects.update(claimed_until=later, backoff_until=later, next_refresh_at=later)
    assert refresh(credential.pk) is None
    assert report_of(refresh(credential.pk, force=True)).problem == ""


def test_revoked_keys_and_keys_of_archived_teams_are_never_used(credential: Credential, world: World) -> None:
    Team.objects.update(archived_at=timezone.now())
    assert (due(timezone.now()), refresh(credential.pk, force=True)) == ([], None)
    Team.objects.update(archived_at=None)
    Credential.objects.update(revoked_at=timezone.now())
    assert (due(timezone.now()), refresh(credential.pk, force=True)) == ([], None)
    assert world.calls == []


@pytest.mark.slow
@pytest.mark.parametrize("limit", [7, 20])
def test_no_sixty_seconds_exceed_the_rate_limit(
    limit: int, credential: Credential, world: World, clock: Any, settings: Any, watch: Any
) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = limit
    for number in range(60):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}")
    watch()
    counted: dict[int, int] = {}
    for second in range(0, 300, 5):
        clock.move_to(START + timedelta(seconds=second))
        before = len(world.calls)
        refresh(credential.pk)
        counted[second] = len(world.calls) - before
    windows = [sum(counted[at] for at in counted if start <= at < start + 60) for start in range(300)]
    assert max(windows) <= limit
    assert sum(counted.values()) >= 4 * limit
    # Reading active runs leaves calls to find new ones.
    assert Run.objects.count() >= limit


def test_looks_at_cancelled_runs_count_too(credential: Credential, world: World, settings: Any) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 60
    world.task("T1")
    task = Task.objects.create(team=credential.team, endpoint=credential.endpoint, arize_id="T1", credential=credential)
    for number in range(6):
        world.run(f"R{number}")
        run = make_run(task, status=Status.UNKNOWN, arize_id=f"R{number}")
        Cancellation.objects.create(run=run, person_label="oli", outcome="unknown")
    refresh(credential.pk)
    assert world.paths()[:2] == ["task-runs/R0", "task-runs/R1"]
    assert world.reads_of("task-runs") == 2, "a thirtieth of the rate limit at once"
    credential.refresh_from_db()
    assert sum(calls for _, _, calls in credential.recent_calls) == len(world.calls)


def test_retries_of_a_read_count_too(credential: Credential, world: World) -> None:
    world.fault = failing("spaces", 500)
    refresh(credential.pk)
    credential.refresh_from_db()
    assert sum(calls for _, _, calls in credential.recent_calls) == len(world.calls)
    assert world.reads_of("spaces") == 3


def test_there_is_no_retry_once_the_rate_limit_is_reached(credential: Credential, world: World, settings: Any) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 5
    world.fault = failing("/v2/", 500)
    assert "500" in report_of(refresh(credential.pk)).problem
    assert world.paths() == ["spaces"] * 3 + ["tasks"] * 2


def test_the_rate_limit_holds_while_everything_fails(
    credential: Credential, world: World, clock: Any, settings: Any, watch: Any
) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 20
    for number in range(40):
        world.task(f"T{number}")
    refresh(credential.pk)
    clock.shift(60)
    world.calls.clear()
    turns = cycle([(500, {}, ""), (500, {}, ""), (500, {}, ""), None])
    world.fault = lambda call: None if call.endswith("limit=1") else next(turns)
    watch()
    for _ in range(12):
        refresh(credential.pk)
        Credential.objects.update(backoff_until=None, next_refresh_at=START)
        clock.shift(4)
    assert 19 <= len(world.calls) <= 20


def test_the_mirror_follows_a_stopping_run_to_its_end(credential: Credential, world: World, clock: Any) -> None:
    world.task("T1")
    seen = world.run("R1")
    refresh(credential.pk)
    run = Run.objects.get()
    row = Cancellation.objects.create(run=run, person_label="oli", stopping_since=timezone.now())
    clock.shift(30)
    refresh(credential.pk)
    assert Cancellation.objects.get().outcome == ""
    seen["status"] = "CANCELLED"
    clock.shift(30)
    refresh(credential.pk)
    row.refresh_from_db()
    run.refresh_from_db()
    assert (row.outcome, run.status) == ("confirmed", Status.CANCELLED)
    assert events(operation_id=row.pk) == [("run.cancel", "confirmed")]


@pytest.mark.parametrize(("force", "tasks_read"), [(True, 40), (False, 0)])
def test_only_a_command_reads_without_a_time_limit(
    force: Any, tasks_read: int, team: Team, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reader, "LONGEST_ROUND", 0.15)
    tasks = {"tasks": [{"id": f"T{number}"} for number in range(40)]}
    is_slow = threading.Event()  # never set, so each wait takes its full timeout

    def answer(_: str, path: str) -> tuple[int, Any]:
        is_slow.wait(0.2)
        return 200, tasks if path.startswith("/v2/tasks?") else {}

    with serving(ArizeServer(answer)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        credential = make_credential(team)
        Credential.objects.update(endpoint=double.url)
        report = report_of(refresh(credential.pk, force=force))
    assert report.problem == ""
    assert Task.objects.exclude(runs_read_at=None).count() == tasks_read
    assert sum("/runs" in line for line in double.received) >= tasks_read


@pytest.mark.commits
def test_concurrent_workers_make_one_round(committed: None, settings: Any) -> None:
    def answer(_: str, path: str) -> tuple[int, Any]:
        return 200, {path.split("/")[2].split("?", maxsplit=1)[0]: []}

    with serving(ArizeServer(answer)) as double:
        settings.ARIZE_ENDPOINTS = (double.url,)
        credential = make_credential(Team.objects.create(slug="ops", name="Ops"))
        Credential.objects.update(endpoint=double.url)
        reports = in_threads(8, lambda _: refresh(credential.pk))
    assert sum(report is not None for report in reports) == 1
    assert len(double.received) == 2


@pytest.mark.slow
def test_a_late_tick_never_skips_a_round(credential: Credential, world: World, clock: Any, watch: Any) -> None:
    watch()
    begun = []
    for tick in range(40):
        late = (1.0, 0.95, 0.1, 1.1, 0.0)[tick % 5]
        clock.move_to(START + timedelta(seconds=5 * tick + late))
        if refresh(credential.pk) is not None:
            begun.append(tick)
    assert begun == list(range(40))


@pytest.mark.slow
def test_ticks_of_several_workers_do_not_make_the_pace_faster(
    credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    watch()
    begun = 0
    for tick in range(180):  # three workers with their own ticks, for five minutes
        clock.move_to(START + timedelta(seconds=5 * tick / 3))
        begun += refresh(credential.pk) is not None
    assert begun == 60
