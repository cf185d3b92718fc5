"""The first reading of a large account: in the background, within the rate limit, with visible progress."""

import itertools
import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import responses
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskruns.models import Cancellation, Credential, Run, Task, Team, User
from taskruns.pages.credentials import first_contacts
from taskruns.services import credentials
from taskruns.services.mirror import due, first_contact, refresh
from tests.clients import ClientOf
from tests.factories import actor
from tests.fake_arize import START, World, failing

RATE_LIMIT = 60


@pytest.fixture
def world(arize: responses.RequestsMock, settings: Any) -> World:
    settings.ARIZE_CALLS_PER_MINUTE = RATE_LIMIT
    return World().install(arize)


def run_ticks(clock: Any, world: World, *, until: Callable[[int], bool]) -> dict[int, list[str]]:
    """Run a worker's ticks, one every 5 s. Returns the calls of each."""
    called: dict[int, list[str]] = {}
    for second in range(0, 3600, 5):
        clock.move_to(START + timedelta(seconds=second))
        before = len(world.calls)
        for key in due(timezone.now()):
            refresh(key)
        called[second] = world.calls[before:]
        if until(second):
            return called
    raise AssertionError("it took more than an hour")


def is_done(_: int) -> bool:
    return Credential.objects.get().first_contact_done_at is not None


def most_in_a_minute(called: dict[int, list[str]]) -> int:
    return max(sum(len(calls) for at, calls in called.items() if start <= at < start + 60) for start in called)


def texts() -> list[str]:
    return [contact.text for contact in first_contacts(Credential.objects.all())]


@pytest.mark.slow
def test_first_contact_continues_within_the_rate_limit_without_viewers(
    credential: Credential, world: World, clock: Any, settings: Any
) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 120
    for number in range(250):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}", "COMPLETED")
    called = run_ticks(clock, world, until=is_done)
    assert most_in_a_minute(called) <= 120
    # 250 tasks and, each minute, their lists (4 calls) and the sweep (10).
    assert max(called) < 180
    assert Run.objects.count() == 250
    credential.refresh_from_db()
    assert (credential.next_refresh_at - timezone.now()).total_seconds() == 300


@pytest.mark.slow
def test_the_newest_page_of_each_task_is_read_once(credential: Credential, world: World, clock: Any) -> None:
    for number in range(100):
        world.task(f"T{number:03}")
    called = run_ticks(clock, world, until=lambda second: second == 60)
    lists = [call for calls in called.values() for call in calls if "/runs" in call]
    assert not [call for call in lists if "cursor" in call]
    unread = Task.objects.filter(runs_read_at=None).count()
    assert len(lists) - len(set(lists)) <= 10, "only the sweep reads a task again"
    assert 0 < unread < 100


def test_a_small_account_is_read_in_one_round(credential: Credential, world: World) -> None:
    for number in range(20):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}", "COMPLETED")
    refresh(credential.pk)
    assert Run.objects.count() == 20
    assert is_done(0)
    assert texts() == []


@pytest.mark.slow
def test_active_runs_come_first_in_each_round_of_first_contact(
    credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    for number in range(100):
        world.task(f"T{number:03}")
    world.tasks["T099"]["last_run_at"] = "2026-11-23T02:59:00Z"  # such a task is read among the first
    world.run("active", "T099")
    watch()
    called = run_ticks(clock, world, until=is_done)
    reads = [second for second, calls in called.items() if second and "/v2/tasks/T099/runs?limit=100" in calls]
    assert [calls[0] for second, calls in called.items() if second in reads] == [
        "/v2/tasks/T099/runs?limit=100" for _ in reads
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(reads)]
    assert (reads[0], max(gaps)) == (5, 5), "no call is left for the next minute"
    assert most_in_a_minute(called) <= RATE_LIMIT


@pytest.mark.slow
def test_without_viewers_not_every_round_reads_the_active_runs(
    credential: Credential, world: World, clock: Any
) -> None:
    for number in range(80):
        world.task(f"T{number:03}")
    world.tasks["T000"]["last_run_at"] = "2026-11-23T02:59:00Z"
    world.run("active", "T000")
    called = run_ticks(clock, world, until=is_done)
    reads = [second for second, calls in called.items() if any("T000/runs" in call for call in calls)]
    gaps = [later - earlier for earlier, later in itertools.pairwise([*reads, max(called)])]
    assert (reads[0], max(gaps)) == (0, 25)
    assert len([gap for gap in gaps[:-1] if gap < 25]) <= 1, "the search also reads each task once"


def test_cancellations_come_before_everything_else(credential: Credential, world: World, clock: Any) -> None:
    for number in range(150):
        world.task(f"T{number:03}")
    world.tasks["T000"]["last_run_at"] = "2026-11-23T02:59:00Z"
    world.run("stopping", "T000")
    refresh(credential.pk)
    run = Run.objects.get()
    Cancellation.objects.create(run=run, person_label="oli", stopping_since=timezone.now())
    called = run_ticks(clock, world, until=lambda second: second == 55)
    looks = {second: calls[0] for second, calls in called.items() if any("stopping" in call for call in calls)}
    assert set(looks.values()) == {"/v2/task-runs/stopping"}
    assert (list(looks)[:2], len(looks)) == ([5, 10], 4)


@pytest.mark.slow
def test_many_active_runs_leave_first_contact_a_third_of_the_rate_limit(
    credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    for number in range(60):
        world.task(f"T{number:03}")
        world.run(f"R{number}", f"T{number:03}")
    watch()
    called = run_ticks(clock, world, until=is_done)
    assert most_in_a_minute(called) <= RATE_LIMIT
    assert max(called) <= 60 / (RATE_LIMIT / 3 - 3) * 60
    assert Run.objects.count() == 60


@pytest.mark.slow
def test_progress_is_described_from_the_first_minute_to_the_last(
    credential: Credential, world: World, clock: Any, django_assert_num_queries: Any
) -> None:
    assert texts() == ["Key “Production” is new: the list of its tasks is being read."]
    for number in range(1200):
        world.task(f"T{number}")
    numbers = []
    versions = set()

    def note_progress(_: int) -> bool:
        numbers.extend((contact.read, contact.total) for contact in first_contacts(Credential.objects.all()))
        versions.add(Team.objects.get().board_version)
        return len(numbers) == 13

    run_ticks(clock, world, until=note_progress)
    assert numbers[0] == (RATE_LIMIT / 3, 1200), "a third of the rate limit at once"
    assert numbers == sorted(numbers)
    assert numbers[11][0] > numbers[0][0] + 10
    assert texts() == [f"First reading with key “Production”: read {numbers[-1][0]:,} of 1,200 tasks."]
    assert len(versions) >= 8, "open boards are updated"
    Task.objects.update(runs_read_at=timezone.now())
    clock.shift(5)
    refresh(credential.pk)
    keys = list(Credential.objects.all())
    with django_assert_num_queries(0):
        assert first_contacts(keys) == ()


def test_a_failing_key_shows_no_progress(credential: Credential, world: World, clock: Any) -> None:
    world.fault = failing("/v2/", 401)
    for _ in range(2):
        refresh(credential.pk)
        clock.shift(10)
    assert texts() == []


def test_a_failing_task_does_not_keep_first_contact_open(
    credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    for number in range(5):
        world.task(f"T{number}", last_run_at="2026-11-23T02:00:00Z")
    world.fault = failing("T3/runs", 500)
    refresh(credential.pk)
    assert is_done(0)
    world.calls.clear()
    watch()
    for second in range(5, 65, 5):
        clock.move_to(START + timedelta(seconds=second))
        refresh(credential.pk)
    assert world.reads_of("T3/runs") <= 3 * 3, "three attempts each: two as a changed task and one by the sweep"


def test_first_contact_restarts_when_a_key_sees_a_new_large_space(
    credential: Credential, world: World, clock: Any
) -> None:
    world.task("T0")
    refresh(credential.pk)
    assert is_done(0)
    for number in range(1, 200):
        world.task(f"T{number}")
    clock.shift(300)
    refresh(credential.pk)
    assert not is_done(0)
    assert texts()[0].endswith("of 200 tasks.")
    clock.shift(5)
    assert due(timezone.now()) == [credential.pk]


def test_a_replaced_key_starts_over(credential: Credential, world: World, mona: User) -> None:
    world.task("T0")
    refresh(credential.pk)
    assert is_done(0)
    credential.refresh_from_db()
    credentials.replace(credential, key="ak-another-key-0123456789", expires_on=None, by=actor(mona, "manager"))
    assert not is_done(0)
    refresh(credential.pk)
    assert is_done(0)


def test_429_in_between_waits_and_continues(credential: Credential, world: World, clock: Any) -> None:
    for number in range(80):
        world.task(f"T{number}")
    world.fault = lambda _: (429, {"Retry-After": "40"}, "") if len(world.calls) == 10 else None
    refresh(credential.pk)
    read = Task.objects.exclude(runs_read_at=None).count()
    clock.shift(35)
    assert due(timezone.now()) == []
    clock.shift(5)
    assert due(timezone.now()) == [credential.pk]
    refresh(credential.pk)
    assert Task.objects.exclude(runs_read_at=None).count() > read


def test_a_task_list_too_long_for_a_round_continues_in_the_next(
    credential: Credential, world: World, clock: Any
) -> None:
    world.page = 2
    for number in range(180):
        world.task(f"T{number:03}", space=f"S{number // 60}")
    called = run_ticks(clock, world, until=lambda _: Credential.objects.get().tasks_read_at is not None)
    assert Task.objects.count() == 180
    lists = [call for calls in called.values() for call in calls if call.startswith("/v2/tasks?")]
    assert len(lists) == len(set(lists)) == 90, "no page is read twice"
    assert set(Task.objects.values_list("space_id", flat=True)) == {"S0", "S1", "S2"}
    assert max(called) >= 60


def test_a_round_without_calls_keeps_the_spaces_of_the_key(credential: Credential, world: World) -> None:
    world.task("T0")
    refresh(credential.pk)
    spaces = Credential.objects.get().spaces
    assert [space["id"] for space in spaces] == ["S1"]
    spent = [[int(timezone.now().timestamp()), 0, RATE_LIMIT]]
    Credential.objects.update(recent_calls=spent, tasks_read_at=None, next_refresh_at=timezone.now())
    refresh(credential.pk)
    assert Credential.objects.get().spaces == spaces


def test_the_keys_page_and_the_command_show_the_progress(
    credential: Credential, world: World, mona: User, client_of: ClientOf
) -> None:
    for number in range(50):
        world.task(f"T{number}")
    page = client_of(mona).get(f"/teams/{credential.team.slug}/credentials/").content.decode()
    assert "the list of its tasks is being read" in page
    assert "<progress aria-label" in page
    world.fault = lambda _: (429, {}, "") if len(world.calls) > 20 else None
    out = StringIO()
    with pytest.raises(CommandError, match="429"):
        call_command("refresh", stdout=out)
    world.fault = lambda _: None
    page = client_of(mona).get(f"/teams/{credential.team.slug}/credentials/").content.decode()
    said = out.getvalue().splitlines()[-1].removesuffix(" The worker continues.")
    assert said.startswith("First reading with key “Production”: read ")
    assert said in page
    assert re.search(r'<progress [^>]*max="50" value="', page)
    call_command("refresh", stdout=(out := StringIO()))
    assert "First reading" not in out.getvalue()
    assert "<progress" not in client_of(mona).get(f"/teams/{credential.team.slug}/credentials/").content.decode()


def test_a_gap_in_a_task_that_is_gone_is_not_waited_for(credential: Credential, world: World, clock: Any) -> None:
    task = world.task("T1", runs=1)
    assert task
    refresh(credential.pk)
    Task.objects.update(gap_cursor="x", listed_at=timezone.now() - timedelta(minutes=10))
    Credential.objects.update(tasks_read_at=timezone.now())
    assert not first_contact.settle(Credential.objects.get())
