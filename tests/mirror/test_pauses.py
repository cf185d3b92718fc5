"""How long the mirror pauses while Arize is down, and how soon it reads again when Arize is well."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import requests
import responses
from django.utils import timezone

from taskruns.models import Credential, EmergencyStop, Run, Task, Team, User
from taskruns.services import stops
from taskruns.services.mirror import RoundReport, due, note_attention, refresh, schedule
from tests.factories import actor, make_credential
from tests.fake_arize import START, World, failing

LIMITS = {"board": 30, "stop": 10}


def await_readings(team: Team, how: str) -> None:
    if how == "board":
        Team.objects.update(watched_at=timezone.now())
    elif how == "stop" and not EmergencyStop.objects.exists():
        ends = START + timedelta(days=1)
        EmergencyStop.objects.create(team=team, person_label="oli@example.com", reason="why", expires_at=ends)


def pause_of(credential: Credential) -> float:
    credential.refresh_from_db()
    assert credential.backoff_until is not None
    return (credential.backoff_until - timezone.now()).total_seconds()


def read(credential: Credential) -> RoundReport:
    Credential.objects.update(next_refresh_at=timezone.now())
    report = refresh(credential.pk)
    assert report is not None
    return report


def pauses(credential: Credential, clock: Any, *, rounds: int, how: str = "") -> list[float]:
    """The pause after each of some rounds, all of which fail."""
    found = []
    for _ in range(rounds):
        await_readings(credential.team, how)
        assert read(credential).problem
        found.append(pause_of(credential))
        clock.move_to(timezone.now() + timedelta(seconds=found[-1]))
    return found


@pytest.mark.parametrize("how", LIMITS)
def test_while_somebody_waits_a_pause_stays_short(how: str, credential: Credential, world: World, clock: Any) -> None:
    world.fault = failing("/v2/", 503)
    found = pauses(credential, clock, rounds=9, how=how)
    doubled = [pause for pause in (5, 10, 20) if pause < LIMITS[how]]
    assert found[: len(doubled)] == doubled
    later = found[len(doubled) :]
    assert LIMITS[how] / 2 <= min(later) < max(later) <= LIMITS[how]
    clock.shift(60)
    assert pauses(credential, clock, rounds=1) == ([300] if how == "board" else [pytest.approx(7.5, abs=2.5)])


def test_a_probe_that_fails_is_one_call_of_the_same_trouble(credential: Credential, world: World, clock: Any) -> None:
    world.fault = failing("/v2/", 503)
    pauses(credential, clock, rounds=1, how="board")
    assert len(world.calls) > 1, "the control: a whole round"
    world.calls.clear()
    pauses(credential, clock, rounds=4, how="board")
    assert world.paths() == ["spaces", "tasks"] * 2
    credential.refresh_from_db()
    assert (credential.failures, credential.backoff_since) == (5, START)


@dataclass
class SlowWorld(World):
    """Answers after some seconds: a call that does not wait for so long gets no answer."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def _answer(self, request: requests.PreparedRequest) -> Any:
        _, wait = request.req_kwargs["timeout"]  # type: ignore[attr-defined]
        self.waits.append(wait)
        if wait < self.seconds:
            raise requests.ReadTimeout
        return super()._answer(request)


@pytest.fixture
def slow(arize: responses.RequestsMock) -> SlowWorld:
    return SlowWorld().install(arize)  # type: ignore[return-value]


def test_a_slow_arize_is_read_again_after_a_fault(credential: Credential, slow: SlowWorld, clock: Any) -> None:
    slow.task("T1")
    slow.seconds = 6
    read(credential)
    slow.fault = failing("/v2/", 503)
    pauses(credential, clock, rounds=1, how="board")
    slow.fault = lambda _: None
    slow.run("R1")
    waited = 0
    while not Run.objects.exists():
        waited += 5
        clock.shift(5)
        await_readings(credential.team, "board")
        if due(timezone.now()):
            refresh(credential.pk)
        assert waited <= 60
    credential.refresh_from_db()
    assert (credential.failures, credential.backoff_until) == (0, None)


def test_half_of_the_probes_of_a_silent_arize_are_short(credential: Credential, slow: SlowWorld, clock: Any) -> None:
    slow.seconds = 60
    pauses(credential, clock, rounds=1, how="board")
    slow.waits.clear()
    pauses(credential, clock, rounds=8, how="board")
    assert [round(wait) for wait in slow.waits] == [4, 4, 12, 12] * 2


@pytest.mark.parametrize("broken", ["/v2/spaces", "/v2/tasks?limit"])
def test_a_list_that_always_fails_does_not_make_the_trouble_last(
    broken: str, credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1")
    world.fault = failing("/v2/", 503)
    pauses(credential, clock, rounds=3)
    world.fault = failing(broken, 500)
    rounds = 0
    while Credential.objects.exclude(backoff_until=None).exists():
        rounds += 1
        read(credential)
        clock.shift(300)
    assert rounds <= 2


@pytest.mark.parametrize("how", LIMITS)
def test_keys_that_failed_together_do_not_return_together(how: str, team: Team, world: World, clock: Any) -> None:
    world.fault = failing("/v2/", 503)
    keys = [make_credential(team, name=f"Key {number}") for number in range(100)]
    Credential.objects.update(failures=9)
    await_readings(team, how)
    for key in keys:
        refresh(key.pk)
    seconds = Counter(int(pause_of(key)) for key in keys)
    assert len(seconds) >= LIMITS[how] / 2
    assert max(seconds.values()) < 50


def test_opening_a_board_shortens_a_long_pause(credential: Credential, world: World, clock: Any) -> None:
    world.fault = failing("/v2/", 503)
    Credential.objects.update(failures=9)
    read(credential)
    assert pause_of(credential) == 300
    note_attention([Team.objects.get()])
    assert 15 <= pause_of(credential) <= 30
    world.fault = lambda _: None
    clock.shift(30)
    assert due(timezone.now()) == [credential.pk]


def test_pulling_the_stop_shortens_a_long_pause(credential: Credential, world: World, clock: Any, oli: User) -> None:
    world.fault = failing("/v2/", 503, Retry_After="200")
    read(credential)
    assert pause_of(credential) == 200
    stops.pull(credential.team, reason="why", left_out=[], by=actor(oli))
    assert 5 <= pause_of(credential) <= 10
    clock.shift(10)
    assert due(timezone.now()) == [credential.pk]
    assert read(credential).problem
    assert pause_of(credential) == 10, "a guess of Arize does not hold up a stop"


def test_nobody_shortens_a_pause_that_arize_asked_for(
    credential: Credential, world: World, clock: Any, oli: User
) -> None:
    world.fault = failing("/v2/", 429, Retry_After="120")
    read(credential)
    note_attention([Team.objects.get()])
    stops.pull(credential.team, reason="why", left_out=[], by=actor(oli))
    assert pause_of(credential) == 120
    clock.shift(120)
    read(credential)
    assert pause_of(credential) == 120


def test_a_short_pause_stays_when_a_board_is_opened(credential: Credential, world: World, clock: Any) -> None:
    world.fault = failing("/v2/", 503)
    read(credential)
    note_attention([Team.objects.get()])
    assert pause_of(credential) == 5


def test_a_stop_pulled_at_the_end_of_a_round_shortens_its_pause(
    credential: Credential, world: World, clock: Any, monkeypatch: Any
) -> None:
    """The round asked whether somebody waits, then the stop was committed, then the round stored its pause."""
    answers = iter([None, timedelta(seconds=10)])
    monkeypatch.setattr(schedule, "longest_pause", lambda _: next(answers))
    world.fault = failing("/v2/", 503)
    Credential.objects.update(failures=9)
    read(credential)
    assert 5 <= pause_of(credential) <= 10


def test_tasks_that_failed_when_arize_went_down_are_read_as_soon_as_it_is_well(
    credential: Credential, world: World, clock: Any
) -> None:
    world.task("T1", last_run_at="2026-11-23T00:00:00Z")
    read(credential)
    clock.shift(61)
    world.run("R1", "T1", "COMPLETED")
    world.tasks["T1"]["last_run_at"] = "2026-11-23T00:01:00Z"
    Task.objects.update(last_run_at=START)
    world.fault = failing("/v2/", 503)
    assert read(credential).problem
    assert Task.objects.exclude(runs_failed_at=None).exists(), "the control"
    world.fault = lambda _: None
    clock.shift(5)
    await_readings(credential.team, "board")  # so that the search does not find the run
    assert not read(credential).problem
    assert Run.objects.count() == 1
