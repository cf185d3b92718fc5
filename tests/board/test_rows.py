"""What a row of the board tells: which run it is, how far, how fast, how many errors."""

import base64
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from taskruns.access.gate import access_to
from taskruns.models import Credential, Run, Status, Task, Team, User
from taskruns.pages.board import row_of
from taskruns.pages.values import counts_of, short_id, speed_of
from taskruns.permissions import TeamAccess
from taskruns.services.members import own_seen_by
from tests.clients import ClientOf
from tests.factories import make_credential, make_run
from tests.markup import without_bdi
from tests.wire import ENDPOINT

BOARD = "/teams/ops-north/runs/"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("arize_id", "short"),
    [
        (encoded("TaskRun:4512:aB3d"), "4512"),
        (encoded("TaskRun:4512:aB3d").rstrip("="), "4512"),
        (encoded("nothing of the kind"), encoded("nothing of the kind")[-8:]),
        ("not base64 at all", "4 at all"),
        ("short-id", "short-id"),
        ("", ""),
    ],
)
def test_a_short_id_is_the_number_or_the_end(arize_id: str, short: str):
    assert short_id(arize_id) == short


def rows(client: Client, url: str = BOARD) -> list[str]:
    html = without_bdi(client.get(url).content.decode())
    return re.findall(r'<tr id="run-.*?</tr>', html, re.DOTALL)


def test_a_row_shows_the_short_id_and_copies_the_whole_one(client: Client, task: Task):
    arize_id = encoded("TaskRun:4512:aB3d")
    make_run(task, arize_id=arize_id)
    (row,) = rows(client)
    assert f'<code class="run-id" title="{arize_id}">4512</code>' in row
    assert f'data-copy="{arize_id}"' in row
    assert 'aria-label="Copy the ID of run 4512"' in row


def test_controls_of_equal_rows_have_different_names(task: Task, oli: User, client_of: ClientOf):
    started = timezone.now()
    for number in (1, 2):
        make_run(task, arize_id=encoded(f"TaskRun:{number}:x"), run_started_at=started)
    found = rows(client_of(oli))
    for pattern in (r'aria-label="(Select [^"]*)"', r"data-cancel>(.*?)</button>", r'aria-label="(Copy [^"]*)"'):
        names = [name for row in found for name in re.findall(pattern, row, re.DOTALL)]
        assert len(names) == len(set(names)) == 2, pattern


def test_the_task_is_the_header_of_its_row(client: Client, task: Task):
    make_run(task)
    (row,) = rows(client)
    assert row.count('<th role="rowheader" scope="row" class="c-task">') == 1


@pytest.mark.parametrize(
    ("succeeded", "errored", "share", "is_high"),
    [
        (0, 0, "", False),
        (100, 0, "", False),
        (90, 10, "10 % errors", False),
        (89, 11, "11 % errors", True),
        (0, 3, "100 % errors", True),
        (1_000, 1, "under 1 % errors", False),
        (None, None, "", False),
    ],
)
def test_the_share_of_errors_leaves_out_skipped_items(succeeded: Any, errored: Any, share: str, is_high: bool):  # noqa: FBT001
    counts = counts_of(Run(num_successes=succeeded, num_errors=errored, num_skipped=50))
    assert (counts.share, counts.has_many_errors) == (share, is_high)


@pytest.mark.parametrize(
    ("items", "seconds", "speed"),
    [
        (600, 120, "300/min"),
        (4, 120, "2.0/min"),
        (0, 120, ""),
        (600, 3, ""),
        (84_321, 60, "84.3k/min"),
        (900_000, 60, "900k/min"),
    ],
)
def test_the_speed_is_that_until_the_items_last_changed(items: int, seconds: int, speed: str):
    started = timezone.now() - timedelta(hours=1)
    run = Run(status=Status.RUNNING, num_successes=items, run_started_at=started)
    run.progress_changed_at = started + timedelta(seconds=seconds)
    assert speed_of(run) == speed
    run.status = Status.COMPLETED
    assert speed_of(run) == "", "only of active runs"
    run.status, run.progress_changed_at = Status.RUNNING, None
    assert speed_of(run) == "", "not known"


def test_counts_are_in_fixed_columns(client: Client, task: Task):
    started = timezone.now() - timedelta(minutes=2)
    make_run(
        task,
        run_started_at=started,
        progress_changed_at=started + timedelta(minutes=1),
        num_successes=1_234,
        num_errors=1,
        num_skipped=0,
    )
    (row,) = rows(client)
    columns = re.findall(r"<span>([^<]*)</span>", row.split('<span class="counts"')[1])
    assert columns == ["1,234 ok", "1 error", "0 skipped", "1.2k/min"]
    assert 'title="1,234 succeeded, 1 errored, 0 skipped"' in row


def test_a_row_names_its_key_only_beside_other_keys(client: Client, task: Task, team: Team, credential: Credential):
    make_run(task)
    assert credential.name not in rows(client)[0]
    make_credential(team, name="Second")
    assert credential.name in rows(client)[0]


def test_tasks_of_one_name_are_told_apart_in_rows(client: Client, task: Task, team: Team, vera: User):
    run = make_run(task)
    assert "task …" not in rows(client)[0]
    twin = Task.objects.create(
        team=team, endpoint=ENDPOINT, credential=task.credential, name=task.name, arize_id="VGFzazo3Onh5eg=="
    )
    make_run(twin)
    found = rows(client)
    assert sorted(re.findall(r"task (…[^<]+)<", row)[0] for row in found) == sorted(
        ["…Onh5eg==", f"…{task.arize_id[-8:]}"]
    )
    (seen,) = own_seen_by(vera)
    alone = row_of(run.pk, team_access=TeamAccess(seen, access_to(vera, seen)))
    assert alone.version in "".join(found), "a row's own answer equals the board's"
