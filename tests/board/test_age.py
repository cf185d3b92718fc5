"""What the board says about outdated rows and about runs that no key reads."""

from datetime import datetime
from typing import Any

import pytest
import responses
import time_machine
from django.test import Client

from taskruns.audit import Actor
from taskruns.models import Credential, Heartbeat, Run, Team
from taskruns.services import credentials
from taskruns.services.mirror import refresh
from tests.factories import make_credential
from tests.fake_arize import World, failing

START = datetime.fromisoformat("2026-11-23T03:00:00+00:00")
TABLE = "/teams/ops-north/runs/table/"
NO_KEY = "No API key reads the runs of"
NO_ANSWER = "Arize did not answer the last read"
SHELL = Actor.command()


@pytest.fixture
def world(arize: responses.RequestsMock) -> World:
    return World().install(arize)


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def credential(clock: Any, team: Team, world: World) -> Credential:
    """A key that has read two tasks, T1 with two active runs and T2 with one."""
    for task, run in (("T1", "R1"), ("T1", "R2"), ("T2", "R3")):
        if task not in world.tasks:
            world.task(task)
        world.run(run, task)
    key = make_credential(team)
    refresh(key.pk)
    return key


def table(client: Client, etag: str = "") -> Any:
    return client.get(TABLE, headers={"If-None-Match": etag} if etag else {})


def text(client: Client) -> str:
    return str(table(client).content.decode())


def test_runs_that_no_key_reads_are_listed_with_their_last_reading(
    credential: Credential, client: Client, clock: Any
) -> None:
    assert NO_KEY not in text(client)
    clock.shift(60)
    credentials.revoke(credential, by=SHELL)
    shown = table(client)
    html = shown.content.decode()
    assert f"{NO_KEY} 2 tasks any more" in html
    assert html.count("no API key reads this task any more") == 3
    assert "not read from Arize yet" not in html
    assert shown["X-As-Of"].startswith("2026-11-23T03:00:00")
    assert table(client, shown["ETag"])["X-As-Of"] == shown["X-As-Of"]
    run = Run.objects.get(arize_id="R3")
    assert f"{NO_KEY} one task any more" in client.get(f"/teams/ops-north/runs/{run.pk}/").content.decode()
    Run.objects.exclude(arize_id="R3").delete()
    assert f"{NO_KEY} one task any more" in text(client)


def test_the_warning_ends_when_another_key_reads_the_runs(credential: Credential, client: Client, team: Team) -> None:
    credentials.revoke(credential, by=SHELL)
    refresh(make_credential(team, name="Next").pk)
    assert NO_KEY not in text(client)


def test_a_team_whose_only_key_fails_keeps_its_last_reading(
    credential: Credential, client: Client, world: World, clock: Any
) -> None:
    world.fault = failing("/v2/", 401)
    clock.shift(60)
    refresh(credential.pk)
    assert table(client)["X-As-Of"].startswith("2026-11-23T03:00:00")


@pytest.mark.parametrize(("parts", "rows"), [(["T1/runs"], 2), (["task-runs/R3", "T2/runs"], 1)])
@pytest.mark.parametrize("status", [500, 400])
def test_rows_whose_reading_fails_say_so_and_since_when(
    parts: list[str], rows: int, status: int, credential: Credential, client: Client, world: World, clock: Any
) -> None:
    before = Team.objects.get().board_version
    world.fault = lambda call: (status, {}, "") if any(part in call for part in parts) else None
    for _ in range(3):
        clock.shift(31)
        report = refresh(credential.pk)
        assert report is not None
        assert report.problem == ""
    assert Team.objects.get().board_version > before
    html = text(client)
    assert html.count(NO_ANSWER) == rows
    assert html.count('as of <time datetime="2026-11-23T03:00:0') >= rows
    world.fault = lambda _: None
    clock.shift(301)
    refresh(credential.pk)
    assert NO_ANSWER not in text(client)


@pytest.mark.slow
def test_an_open_board_reloads_when_a_row_becomes_outdated_or_current(
    credential: Credential, client: Client, world: World, clock: Any, settings: Any
) -> None:
    reason = "other runs had to be read first"
    for number in range(4, 8):
        world.task(f"T{number}")
        world.run(f"R{number}", f"T{number}")
    clock.shift(61)
    refresh(credential.pk)
    settings.ARIZE_CALLS_PER_MINUTE = 1  # for six tasks with active runs
    behind, statuses, etag = [], [], table(client)["ETag"]
    for _ in range(12):
        clock.shift(61)
        Credential.objects.update(next_refresh_at="2026-11-23T03:00:00Z")
        refresh(credential.pk)
        answer = table(client, etag)
        behind.append(text(client).count(reason))
        statuses.append(answer.status_code)
        etag = answer["ETag"]
    assert max(behind) > 0
    changes = [index for index in range(1, len(behind)) if behind[index] != behind[index - 1]]
    assert changes
    assert [statuses[index] for index in changes] == [200] * len(changes)


@pytest.mark.parametrize(
    ("seen", "words"),
    [("03:06:30", "Reading from Arize takes unusually long"), ("03:00:30", "The panel&#x27;s worker is not running")],
)
def test_an_open_board_reloads_when_nothing_reads_arize(
    seen: str, words: str, credential: Credential, client: Client, clock: Any
) -> None:
    etag = table(client)["ETag"]
    clock.shift(300)
    assert table(client, etag).status_code == 304, "without attention, one reading in 5 minutes is normal"
    clock.shift(120)
    Heartbeat.objects.create(name="worker", seen_at=datetime.fromisoformat(f"2026-11-23T{seen}Z"))
    answer = table(client, etag)
    assert answer.status_code == 200
    assert words in answer.content.decode()
    refresh(credential.pk)
    assert words not in text(client)
