"""Whatever fails, later rounds make the mirror equal to Arize."""

import itertools
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.models import Credential, Run, Status, Task, Team
from taskruns.services.mirror import refresh
from tests.factories import make_credential
from tests.fake_arize import Fault, World
from tests.threads import in_threads

pytestmark = pytest.mark.slow

NOT_FOUND: Fault = (404, {}, "")
FAULTS: list[Fault] = [
    (500, {}, ""),
    (429, {"Retry-After": "20"}, ""),
    NOT_FOUND,
    (403, {}, ""),
    (200, {}, "<html>"),
    requests.ReadTimeout(),
    requests.ConnectionError("cut"),
    requests.ConnectTimeout(),
]
WORDS = ["PENDING", "running", "COMPLETED", "Failed", "CANCELLED", "PAUSED"]


def change_world(world: World, chance: Random) -> None:
    """Change Arize as between two rounds."""
    if chance.random() < 0.2:
        world.task(f"N{len(world.tasks)}", space=chance.choice(["S1", "S2"]))
    for task in world.tasks:
        if chance.random() < 0.4:
            number = sum(len(runs) for runs in world.runs.values())
            world.run(f"R{number}", task, chance.choice(WORDS[:2]), minute=number)
            world.tasks[task]["last_run_at"] = f"2026-11-23T{number // 60:02}:{number % 60:02}:00Z"
        for run in world.runs[task]:
            if run["status"] in WORDS[:2] and chance.random() < 0.5:
                run["status"] = chance.choice(WORDS[1:5])
                run["num_successes"] += 1
        if chance.random() < 0.1:
            world.tasks[task]["name"] = f"Renamed {chance.randrange(100)}"


def runs_in_arize(world: World) -> dict[str, tuple[str, int]]:
    runs = [run for runs in world.runs.values() for run in runs]
    known = set(Status.values)
    return {
        run["id"]: (word if (word := run["status"].lower()) in known else "unknown", run["num_successes"])
        for run in runs
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_rounds_converge_under_random_faults(seed: int, credential: Credential, world: World) -> None:
    chance = Random(seed)
    Task.objects.all().delete()
    Credential.objects.update(
        tasks_read_at=None, backoff_until=None, recent_calls=[], failures=0, next_refresh_at=timezone.now()
    )
    world.__init__()  # type: ignore[misc]
    for number in range(4):
        world.task(f"T{number}", space=f"S{number % 2 + 1}")
    world.page = chance.choice([2, 5, 100])
    with time_machine.travel(timezone.now() + timedelta(hours=1), tick=False) as clock:
        world.fault = lambda call: _fault(call, chance)
        for _ in range(8):
            change_world(world, chance)
            _round(credential, clock)
        world.fault = lambda _: None
        for _ in range(4):
            _round(credential, clock)
    _assert_same(world)


@pytest.mark.commits
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_concurrent_workers_and_late_answers_undo_nothing(
    seed: int, committed: None, arize: responses.RequestsMock
) -> None:
    """Two rounds with one key at the same time, as when the claim of a slow worker expired. An answer arrives after
    Arize has changed and after the other worker has read the change.
    """
    chance = Random(seed)
    Team.objects.all().delete()
    credential = make_credential(Team.objects.create(slug="ops", name="Ops"))
    world = World(page=chance.choice([2, 5, 100])).install(arize)
    for number in range(4):
        world.task(f"T{number}", space=f"S{number % 2 + 1}")
    with time_machine.travel(timezone.now() + timedelta(hours=1)) as clock:
        ended: set[tuple[str, str]] = set()
        for _ in range(7):
            change_world(world, chance)
            ended |= _two_rounds(credential, world, chance)
            assert _ended() >= ended, "an ended run never becomes active again"
            clock.shift(61)
        world.fault, world.before_answer = lambda _: None, lambda _: None
        for _ in range(3):
            clock.shift(61)
            _forced(credential)
    _assert_same(world)


def _two_rounds(credential: Credential, world: World, chance: Random) -> set[tuple[str, str]]:
    """While one answer to the first worker is delayed, Arize changes and the second worker makes a whole round. Returns
    the runs that were mirrored as ended then.
    """
    world.fault = lambda call: _fault(call, chance) if chance.random() < 0.3 else None
    reads = itertools.count()
    late = chance.randrange(4)
    ended: set[tuple[str, str]] = set()

    def before_answer(call: str) -> None:
        if "run" in call and next(reads) == late:
            with world.locked():
                for _ in range(3):
                    change_world(world, chance)
            ended.update(*in_threads(1, lambda _: _forced(credential) or _ended()))

    world.before_answer = before_answer
    _forced(credential)
    return ended


def _forced(credential: Credential) -> None:
    assert refresh(credential.pk, force=True) is not None


def _ended() -> set[tuple[str, str]]:
    ended = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    return set(Run.objects.filter(status__in=ended).values_list("arize_id", "status"))


def _fault(call: str, chance: Random) -> Fault | None:
    """Any fault at any time, except a 404 for a single run that exists: it would be gone, and only lists bring a run
    that is gone back.
    """
    fault = chance.choice(FAULTS) if chance.random() < 0.3 else None
    return None if fault == NOT_FOUND and "/task-runs/" in call else fault


def _round(credential: Credential, clock: Any) -> None:
    """A round when the key is due again and the tasks may be listed again."""
    credential.refresh_from_db()
    due = max(filter(None, (credential.next_refresh_at, credential.backoff_until, timezone.now())))
    clock.move_to(due + timedelta(seconds=61))
    assert refresh(credential.pk) is not None


def _assert_same(world: World) -> None:
    """Runs that ended and left the newest page before they were first seen are read on demand only."""
    mirrored = {run.arize_id: (run.status, run.num_successes) for run in Run.objects.all()}
    there = runs_in_arize(world)
    newest = {run["id"] for runs in world.runs.values() for run in runs[: world.page]}
    assert mirrored.keys() <= there.keys()
    assert newest <= mirrored.keys()
    assert mirrored == {run_id: there[run_id] for run_id in mirrored}
    assert dict(Task.objects.values_list("arize_id", "name")) == {
        task: members["name"] for task, members in world.tasks.items()
    }
    active = {run_id for run_id, (status, _) in there.items() if status in {"pending", "running"}} & mirrored.keys()
    assert set(Run.objects.filter(rank=1).values_list("arize_id", flat=True)) == active
