"""What a process remembers for a minute: where scans end, and which searches many runs match."""

from collections.abc import Callable
from typing import Any

import pytest

from taskruns.models import Run, Task, Team, prepared
from taskruns.models.prepared import ForAMinute
from taskruns.services.runs import search
from tests.factories import make_run


@pytest.fixture
def at(monkeypatch: Any) -> Callable[[float], None]:
    """`at(seconds)` moves the clock that forgets."""

    def move(seconds: float) -> None:
        monkeypatch.setattr(prepared, "monotonic", lambda: 1_000 + seconds)

    move(0)
    return move


def test_a_value_is_forgotten_after_a_minute(at: Callable[[float], None]) -> None:
    kept: ForAMinute[str] = ForAMinute(most=2)
    kept.keep("a", "first")
    at(59)
    assert (kept.get("a"), kept.get("b")) == ("first", None)
    at(61)
    assert kept.get("a") is None


def test_no_more_than_so_many_are_remembered() -> None:
    kept: ForAMinute[int] = ForAMinute(most=2)
    for number in range(3):
        kept.keep(number, number)
    assert [kept.get(number) for number in range(3)] == [None, None, 2]


def test_a_search_that_many_match_finds_new_runs_too(team: Team, task: Task, monkeypatch: Any) -> None:
    monkeypatch.setattr(search, "FEW_RUNS", 2)
    runs = [make_run(task, failure_reason="out of quota") for _ in range(3)]
    assert search.search(team, "quota").is_many
    runs.append(make_run(task, failure_reason="out of quota"))
    make_run(task, failure_reason="something else")
    again = search.search(team, "quota")
    assert again.is_many
    assert set(Run.objects.filter(again.where)) == set(runs)
