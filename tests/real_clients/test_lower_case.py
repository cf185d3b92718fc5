"""An Arize that writes lower case: the panel passes it on as it came, and each client does what it does at Arize."""

import json

import pytest

from tests.real_clients.clients import AnyClient
from tests.real_clients.panel import WINDOW, Panel, plain
from tests.sandbox.caller import Caller

# These raise on a status or type in lower case.
STRICT = {"sdk", "ax", "airflow"}


@pytest.mark.parametrize("path", ["/v2/tasks", "/v2/task-runs/{run}", "/v2/tasks/{task}/runs"])
def test_answers_come_through_byte_for_byte(old_panel: Panel, path: str):
    (run,) = old_panel.runs("completed")
    full = path.format(run=run, task=old_panel.task()["id"])
    direct = old_panel.stack.arize.get(full)
    through = Caller(old_panel.stack.url, old_panel.shared_token()).get(full)
    assert b"completed" in direct.body or b"evaluation" in direct.body
    assert (through.status, through.body) == (200, direct.body)


def test_spaces_are_listed_alike(old_panel: Panel, client: AnyClient):
    direct, through = old_panel.both(client, "spaces")
    assert "search-ranking" in json.dumps(direct["result"])
    assert through == direct


def test_a_run_is_shown_or_refused_alike(old_panel: Panel, client: AnyClient):
    (run,) = old_panel.runs("completed")
    direct, through = old_panel.both(client, "run", run=run)
    assert ("error" in direct) == (client.name in STRICT)
    # ax reports its own complaint as a 422 that no server sent.
    assert ("422 Validation Error" if client.name == "ax" else "completed") in json.dumps(direct)
    assert through == direct


def test_a_cancel_is_done_though_the_client_raises(old_panel: Panel, client: AnyClient):
    first, second = old_panel.runs("running", 2)
    direct = plain(client.do(old_panel.direct, "cancel", run=first), first)
    through = plain(client.do(old_panel.through(old_panel.shared_token()), "cancel", run=second), second)
    assert ("error" in direct) == (client.name in STRICT)
    assert through == direct
    assert old_panel.stack.status_at_arize(second) == "cancelled"
    assert [row["outcome"] for row in old_panel.audit_rows(second)] == ["requested", "confirmed"]


def test_an_ended_run_is_refused_alike(old_panel: Panel, client: AnyClient):
    (run,) = old_panel.runs("failed")
    direct, through = old_panel.both(client, "cancel", run=run)
    assert "status 'failed'" in json.dumps(direct) or direct["result"]["already_terminal"]
    assert ("result" in through) == ("result" in direct)
    assert "status 'failed'" in json.dumps(through) or through["result"]["already_terminal"]


def test_waiting_of_the_js_client_never_ends_alike(old_panel: Panel, clients: dict[str, AnyClient]):
    """It compares with upper case."""
    (run,) = old_panel.runs("completed")
    direct, through = old_panel.both(clients["js"], "wait", run=run, timeout=1)
    assert 'Last status: "completed"' in direct["error"]["text"]
    assert through == direct


def test_a_start_by_the_js_client_is_shown_alike(old_panel: Panel, clients: dict[str, AnyClient]):
    task = old_panel.task()["id"]
    shown = []
    for target in (old_panel.direct, old_panel.through(old_panel.shared_token())):
        outcome = clients["js"].do(target, "trigger", task=task, **WINDOW)
        shown.append(plain(outcome, outcome["result"]["id"]))
    assert shown[0] == shown[1]
    assert "pending" in json.dumps(shown[0])
