"""How many of our files one click passes through: a new engineer has to read them all to follow it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import responses
from django.test import Client

from taskruns.models import Run, Task, User
from tests.clients import ClientOf, click_cancel
from tests.factories import make_run
from tests.paths import ROOT
from tests.wire import ENDPOINT, run_url, wire_run

PANEL = ROOT / "taskruns"
KEY = {"name": "Second", "endpoint": ENDPOINT, "key": "ak-new-1Xy7Qz4Mn8Lk2Jh5", "expires_on": ""}
# Without models/, which are tables and not steps.
CANCEL, ADD_KEY, BOARD = 37, 34, 29


def entered(act: Callable[[], Any]) -> tuple[Any, set[str]]:
    """The result of `act`, and the panel's files, without models, in which it called a function."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _arg: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PANEL) and frame.f_code.co_name != "<module>":
            found.add(str(path.relative_to(PANEL)))

    sys.setprofile(note)
    try:
        answer = act()
    finally:
        sys.setprofile(None)
    return answer, {name for name in found if not name.startswith("models/")}


def test_the_count_includes_a_called_file(task: Task):
    assert entered(lambda: make_run(task))[1] == {"arize/ids.py", "services/runs/observations.py"}


def test_a_cancel_enters_few_files(task: Task, run: Run, oli: User, client_of: ClientOf, arize: responses.RequestsMock):
    client, earlier = client_of(oli), make_run(task)
    for it in (earlier, run):
        arize.post(run_url(it, "/cancel"), json=wire_run(it, "CANCELLED"))
    click_cancel(client, earlier)  # warm-up: some files run once per process
    answer, files = entered(lambda: click_cancel(client, run))
    assert answer.status_code == 200
    assert {"views/runs.py", "services/cancellations/actions.py", "arize/client.py"} <= files
    assert len(files) <= CANCEL, sorted(files)


def test_adding_a_key_enters_few_files(mona: User, client_of: ClientOf, arize: responses.RequestsMock):
    client = client_of(mona)
    nothing: dict[str, Any] = {"pagination": {"has_more": False}}
    arize.get(f"{ENDPOINT}/v2/spaces", json=nothing | {"spaces": []})
    arize.get(f"{ENDPOINT}/v2/tasks", json=nothing | {"tasks": []})
    client.get("/teams/ops-north/credentials/new/")
    answer, files = entered(lambda: client.post("/teams/ops-north/credentials/new/", KEY))
    assert answer.status_code == 302
    assert {"views/credentials.py", "services/credentials/actions.py", "encryption.py"} <= files
    assert len(files) <= ADD_KEY, sorted(files)


def test_a_board_enters_few_files(run: Run, oli: User, client_of: ClientOf):
    client = client_of(oli)

    def look(client: Client = client) -> Any:
        return client.get("/teams/ops-north/runs/")

    look()
    answer, files = entered(look)
    assert answer.status_code == 200
    assert {"views/board.py", "pages/board/page.py"} <= files
    assert len(files) <= BOARD, sorted(files)


@pytest.fixture(autouse=True)
def _quiet_profile() -> None:
    """The count would replace a profiler of the test run itself (coverage, cProfile), so there must be none."""
    assert sys.getprofile() is None
