"""A list of spaces that is slow, or that does not end, does not keep the tasks from being listed."""

import json
import time
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from taskruns.models import Credential, Run, Task
from taskruns.services.mirror import due, reader, refresh
from taskruns.services.mirror.tasks import MOST_SPACE_PAGES
from tests.fake_arize import START, World
from tests.mirror import simulation as simulated


@pytest.mark.slow
def test_an_endless_list_of_spaces_leaves_calls_for_the_tasks(credential: Credential, world: World, clock: Any) -> None:
    simulated.watch(credential.team)
    simulation = simulated.Simulation(world, clock, credential)
    simulated.fill(world, credential, tasks=50, active=8)
    world.task("new")
    pages = count()

    def endless(call: str) -> Any:
        number = next(pages) if call.startswith("/v2/spaces") else None
        page = {"spaces": [{"id": f"X{number}"}], "pagination": {"has_more": True, "next_cursor": f"c{number}"}}
        return None if number is None else (200, {}, json.dumps(page))

    world.fault = endless
    ages = []

    def note(_: simulated.Simulation) -> None:
        oldest = Run.objects.filter(rank=1).order_by("observed_at").first()
        ages.append((timezone.now() - oldest.observed_at).total_seconds() if oldest else 0)

    simulation.run(180, before_tick=note)
    assert Task.objects.filter(arize_id="new").exists()
    assert Run.objects.count() == 8
    assert max(ages) <= 10
    assert 0 < next(pages) <= 180 / 30 * MOST_SPACE_PAGES
    assert simulation.most_in_a_minute() <= 300


@pytest.mark.parametrize("spaces", [4, 6])
def test_spaces_that_take_a_whole_round_are_not_read_in_the_next(
    spaces: int, credential: Credential, world: World, clock: Any, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page of two takes 10.5 s, so that no more than two fit a round."""
    world.page = 2
    for number in range(spaces):
        world.task(f"T{number}", space=f"S{number}")
    late = [0.0]
    monkeypatch.setattr(reader, "LONGEST_ROUND", 20.0)
    monkeypatch.setattr(reader, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))

    def be_late(_: str) -> None:
        late[0] += 10.5

    world.before_answer = be_late
    watch()
    for second in range(0, 60, 5):
        clock.move_to(START + timedelta(seconds=second))
        for key in due(timezone.now()):
            refresh(key)
    assert Task.objects.count() == spaces
    credential.refresh_from_db()
    assert credential.tasks_read_at is not None
    named = set(Task.objects.values_list("space_id", flat=True))
    assert named == ({"S0", "S1", "S2", "S3"} if spaces == 4 else {""}), "all spaces are known, or none"
