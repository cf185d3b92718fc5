"""Fixtures of the mirror: a stopped clock, a key and a fake Arize."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import responses
import time_machine

from taskruns.models import Credential, Team
from taskruns.services.mirror import schedule
from tests.factories import make_credential
from tests.fake_arize import START, World


@pytest.fixture
def clock() -> Iterator[Any]:
    """A stopped clock that tests move."""
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def credential(clock: Any, team: Team) -> Credential:
    return make_credential(team)


@pytest.fixture
def world(arize: responses.RequestsMock) -> World:
    return World().install(arize)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`watch()`: from now on a board of every team is open, until the end of the test."""

    def begin() -> None:
        monkeypatch.setattr(schedule, "ATTENTION_LASTS", timedelta(days=2))
        Team.objects.update(watched_at=START)

    return begin
