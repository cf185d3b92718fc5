"""A round when Arize refuses, is slow or sends invalid answers."""

import math
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest
import requests
from django.utils import timezone

from taskruns.models import AuditEvent, Credential, Run, Task, Team
from taskruns.services import credentials
from taskruns.services.mirror import RoundReport, due, refresh
from taskruns.services.mirror.reader import THREADS
from tests.factories import actor
from tests.fake_arize import START, World, failing
from tests.stored import events


def wait_of(credential: Credential) -> float:
    """Seconds until the key is due again."""
    credential.refresh_from_db()
    until = max(credential.next_refresh_at, credential.backoff_until or credential.next_refresh_at)
    return (until - timezone.now()).total_seconds()


def report_of(report: RoundReport | None) -> RoundReport:
    assert report is not None
    return report


def test_a_second_401_marks_the_key_failing_and_stops_reading_with_it(
    credential: Credential, world: World, clock: Any, team: Team
) -> None:
    world.fault = failing("/v2/", 401)
    before = Team.objects.get().board_version
    report = report_of(refresh(credential.pk))
    assert report.unauthorized
    assert len(world.calls) == 1
    credential.refresh_from_db()
    assert (credential.failing_since, wait_of(credential), events()) == (None, 10, [])
    clock.shift(10)
    assert report_of(refresh(credential.pk)).unauthorized
    credential.refresh_from_db()
    assert credential.failing_since == timezone.now()
    assert "401" in credential.failing_reason
    assert credential.claimed_until is None
    assert events() == [("credential.failing", "done")]
    assert AuditEvent.objects.get().credential_id == credential.pk
    assert Team.objects.get().board_version > before
    clock.shift(299)
    assert (due(timezone.now()), refresh(credential.pk)) == ([], None)
    refresh(credential.pk, force=True)
    assert events() == [("credential.failing", "done")]


def test_scattered_rejections_between_answers_take_no_key_out(
    credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    """One answer in 25 is a 401. A key that is revoked after that fails within two looks."""
    for number in range(20):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}")
    watch()
    refresh(credential.pk)
    turns = cycle([*[None] * 24, (401, {}, "")])
    world.fault = lambda _: next(turns)
    rejected = set()
    for _ in range(24):
        clock.shift(5)
        refresh(credential.pk)
        credential.refresh_from_db()
        rejected.add(credential.rejected_at)
    assert len(rejected) > 5
    assert (credential.failing_since, events()) == (None, [])
    world.fault = failing("/v2/", 401)
    clock.shift(10)
    refresh(credential.pk)
    clock.shift(10)
    refresh(credential.pk)
    assert events() == [("credential.failing", "done")]


def test_a_good_test_wakes_a_failing_key(credential: Credential, world: World, mona: Any) -> None:
    world.fault = failing("/v2/", 401)
    refresh(credential.pk)
    world.fault = lambda _: None
    credential.refresh_from_db()
    assert credentials.test(credential, by=actor(mona, "manager")).ok
    assert due(timezone.now()) == [credential.pk]


@pytest.mark.parametrize(("header", "seconds"), [("42", 42), ("0", 5), ("100000", 300), ("soon", 30), (None, 30)])
def test_429_waits_as_long_as_arize_asks(
    header: str | None, seconds: int, credential: Credential, world: World
) -> None:
    Team.objects.update(watched_at=START)
    world.fault = failing("/v2/", 429, **({"Retry_After": header} if header else {}))
    report = report_of(refresh(credential.pk))
    assert not report.unauthorized
    assert "429" in report.problem
    assert len(world.calls) == 1
    assert wait_of(credential) == seconds
    credential.refresh_from_db()
    assert "429" in credential.backoff_reason
    assert credential.failing_since is None


def test_a_shorter_pause_does_not_replace_a_longer_one(credential: Credential, world: World) -> None:
    """A person reads with the key although Arize asked for a pause."""
    Team.objects.update(watched_at=START)
    world.fault = failing("/v2/", 429, Retry_After="120")
    refresh(credential.pk)
    world.fault = failing("/v2/", 503)
    assert "503" in report_of(refresh(credential.pk, force=True)).problem
    assert wait_of(credential) == 120
    credential.refresh_from_db()
    assert ("429" in credential.backoff_reason, credential.backoff_is_limit) == (True, True)


def test_429_during_a_round_stops_it(credential: Credential, world: World) -> None:
    for number in range(60):
        world.task(f"T{number}")
    world.fault = lambda _: (429, {}, "") if len(world.calls) > 10 else None
    assert "429" in report_of(refresh(credential.pk)).problem
    # The first refused call, and those in flight at the same time.
    assert 11 <= len(world.calls) <= 10 + THREADS


FAULTS: dict[str, Any] = {
    "500": (500, {}, ""),
    "503": (503, {"Retry-After": "0"}, ""),
    "HTML": (200, {}, "<html>"),
    "cut": requests.ConnectionError("cut"),
    "slow": requests.ReadTimeout(),
    "refused": requests.ConnectTimeout(),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_of_arize_are_met_with_exponential_backoff(
    kind: str, credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    for number in range(20):
        task = Task(team=credential.team, endpoint=credential.endpoint, arize_id=f"T{number}", credential=credential)
        task.save()
    world.fault = lambda _: FAULTS[kind]
    waits = []
    for _ in range(9):
        world.calls.clear()
        Credential.objects.update(next_refresh_at=timezone.now())
        assert report_of(refresh(credential.pk)).problem
        # First three faults with two retries each and the calls in flight at the same time, then one call each time.
        assert len(world.calls) <= (1 if waits else 33)
        credential.refresh_from_db()
        assert credential.backoff_until is not None
        waits.append((credential.backoff_until - timezone.now()).total_seconds())
        clock.shift(math.ceil(waits[-1]) + 60)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert events() == []
    before = Team.objects.get().board_version
    watch()
    Credential.objects.update(next_refresh_at=timezone.now())
    world.fault = lambda _: None
    assert report_of(refresh(credential.pk)).problem == ""
    assert wait_of(credential) == 5
    credential.refresh_from_db()
    assert (credential.failures, credential.backoff_until, credential.backoff_reason) == (0, None, "")
    assert Team.objects.get().board_version > before


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("42", [42, 42, 42, 42, 42]),
        ("3600", [300]),
        ("Mon, 23 Nov 2026 03:01:30 GMT", [90]),
        ("1", [5, 10]),
        ("soon", [5, 10]),
    ],
)
def test_a_retry_after_of_a_fault_is_respected(
    header: str, waits: list[int], credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    watch()
    world.fault = failing("/v2/", 503, Retry_After=header)
    for seconds in waits:
        assert "503" in report_of(refresh(credential.pk)).problem
        assert wait_of(credential) == seconds
        clock.shift(seconds)


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "refused"])
def test_one_failing_task_does_not_starve_the_others(
    kind: str, credential: Credential, world: World, clock: Any, watch: Any
) -> None:
    watch()
    for number in range(8):
        world.task(f"T{number}", last_run_at="2026-11-23T00:00:00Z")
        world.run(f"R{number}", f"T{number}", "COMPLETED")
    world.fault = lambda call: FAULTS[kind] if "T3/runs" in call else None
    assert report_of(refresh(credential.pk)).problem == ""
    for number in range(8):
        world.run(f"N{number}", f"T{number}", "COMPLETED", minute=1)
        world.tasks[f"T{number}"]["last_run_at"] = "2026-11-23T00:01:00Z"
    clock.shift(61)
    assert report_of(refresh(credential.pk)).problem == ""
    expected = {f"{kind}{number}" for kind in "RN" for number in range(8) if number != 3}
    assert set(Run.objects.values_list("arize_id", flat=True)) == expected
    world.fault = lambda _: None
    clock.shift(61)
    refresh(credential.pk)
    assert set(Run.objects.values_list("arize_id", flat=True)) == expected | {"R3", "N3"}


def test_failing_tasks_among_healthy_ones_do_not_end_the_round(
    credential: Credential, world: World, monkeypatch: Any
) -> None:
    monkeypatch.setattr("taskruns.services.mirror.reader.THREADS", 1)
    for number in range(12):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}", "COMPLETED")
    turns = cycle([FAULTS["HTML"], FAULTS["HTML"], None])
    world.fault = lambda call: next(turns) if "/runs" in call else None
    assert report_of(refresh(credential.pk)).problem == ""
    assert Run.objects.count() == 4
    credential.refresh_from_db()
    assert credential.backoff_until is None


@pytest.mark.parametrize("spoil", [{"ciphertext": "no-token"}, {"endpoint": "http://elsewhere.test"}])
def test_an_unusable_key_is_failing_and_sends_nothing(
    spoil: dict[str, str], credential: Credential, world: World
) -> None:
    Credential.objects.update(**spoil)
    assert report_of(refresh(credential.pk)).problem
    credential.refresh_from_db()
    assert credential.failing_since is not None
    assert world.calls == []
    assert events() == [("credential.failing", "done")]


def test_failing_runs_do_not_keep_others_from_being_read(credential: Credential, world: World, clock: Any) -> None:
    for number in range(8):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}")
    report_of(refresh(credential.pk))
    world.task("new", space="S1")
    world.run("newcomer", "new")
    broken = [f"task-runs/R{number}" for number in range(4)]
    world.fault = lambda call: (500, {}, "") if any(part in call for part in broken) else None
    for _ in range(3):
        clock.shift(61)
        world.run("R7", "T7", "COMPLETED")["id"] = "R7-next"
        assert not report_of(refresh(credential.pk)).problem
    assert Run.objects.filter(arize_id__in=["newcomer", "R7-next"]).count() == 2
    credential.refresh_from_db()
    assert (credential.failures, credential.backoff_until) == (0, None)


def test_a_run_that_always_fails_costs_few_calls(credential: Credential, world: World, clock: Any) -> None:
    """Both runs are older than the newest page of their task, so they are read singly."""
    for task, run in (("T1", "broken"), ("T2", "sound")):
        world.task(task)
        world.run(run, task)
    report_of(refresh(credential.pk))
    world.page = 1
    for task in ("T1", "T2"):
        world.run(f"newest of {task}", task, "COMPLETED")
    clock.shift(10)
    report_of(refresh(credential.pk, force=True))
    looks: list[tuple[bool, bool]] = []

    def read() -> None:
        clock.shift(10)
        Credential.objects.update(next_refresh_at=timezone.now())
        world.calls.clear()
        report_of(refresh(credential.pk))
        looks.append((bool(world.reads_of("task-runs/broken")), bool(world.reads_of("task-runs/sound"))))

    world.fault = failing("task-runs/broken", 500)
    for _ in range(6):
        read()
    assert looks == [(True, True), (False, True), (False, True)] * 2
    world.fault = lambda _: None
    looks.clear()
    for _ in range(3):
        read()
    assert looks == [(True, True)] * 3


def test_three_faults_of_an_arize_that_is_down_end_the_round(credential: Credential, world: World, clock: Any) -> None:
    for number in range(40):
        world.task(f"T{number}")
    report_of(refresh(credential.pk))
    clock.shift(400)
    world.calls.clear()
    world.fault = failing("/v2/", 503)
    assert "503" in report_of(refresh(credential.pk)).problem
    assert world.reads_of("/runs") < 40
    credential.refresh_from_db()
    assert credential.backoff_until is not None


def test_after_a_failure_a_silent_arize_costs_one_short_call(credential: Credential, world: World, clock: Any) -> None:
    """A key whose Arize never answers must not hold a thread for a whole round each time."""
    world.task("T1")
    Credential.objects.update(failures=1)
    world.fault = lambda _: requests.ReadTimeout()
    assert report_of(refresh(credential.pk)).problem
    assert world.calls == ["/v2/spaces?limit=1"]
    credential.refresh_from_db()
    assert (credential.failures, credential.backoff_until) == (2, timezone.now() + timedelta(seconds=10))
    world.fault = lambda _: None
    clock.shift(10)
    Credential.objects.update(next_refresh_at=timezone.now())
    assert not report_of(refresh(credential.pk)).problem
    credential.refresh_from_db()
    assert (credential.failures, Task.objects.count()) == (0, 1)


def test_trouble_is_dated_from_its_first_failure(credential: Credential, world: World, clock: Any) -> None:
    began = None
    for status in (503, 503, 429):
        world.fault = failing("/v2/", status)
        refresh(credential.pk)
        credential.refresh_from_db()
        began = began or timezone.now()
        assert credential.backoff_since == began
        clock.shift(301)
    world.fault = lambda _: None
    refresh(credential.pk)
    credential.refresh_from_db()
    assert credential.backoff_since is None
