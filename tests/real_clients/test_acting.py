"""Cancels and starts: each client shows the same as at Arize, and the panel records who did it."""

import json
from typing import Any

import pytest

from tests.real_clients.clients import AnyClient, Outcome, Target
from tests.real_clients.panel import UNKNOWN_RUN, WINDOW, Panel, plain

ENDED = ("completed", "failed", "cancelled")


def cancelled_at_both(panel: Panel, client: AnyClient, runs: list[str], through: Target) -> tuple[Outcome, Outcome]:
    """Each end gets a run of its own: a run can be cancelled once."""
    first, second = runs
    direct = plain(client.do(panel.direct, "cancel", run=first), first)
    return direct, plain(client.do(through, "cancel", run=second), second)


def name_of_token(row: dict[str, Any]) -> str:
    return row["actor_label"].partition(" (made by")[0]


def test_a_cancel_is_shown_alike_and_recorded(panel: Panel, client: AnyClient):
    runs = panel.runs("running", 2)
    token = panel.token(name=f"cancel by {client.name}")
    direct, through = cancelled_at_both(panel, client, runs, panel.through(token))
    assert through == direct
    assert "CANCELLED" in json.dumps(direct["result"])
    assert panel.stack.status_at_arize(runs[1]) == "cancelled"
    assert len(panel.stack.cancels_received(runs[1])) == 1
    rows = panel.audit_rows(runs[1])
    assert [row["outcome"] for row in rows] == ["requested", "confirmed"]
    assert {row["actor_type"] for row in rows} == {"token"}
    assert {name_of_token(row) for row in rows} == {f"cancel by {client.name}"}


def test_a_pending_run_that_the_board_shows_is_cancelled_alike(panel: Panel, client: AnyClient):
    runs = panel.runs("pending", 2)
    panel.stack.manage("refresh", "ops-north")
    direct, through = cancelled_at_both(panel, client, runs, panel.through(panel.shared_token()))
    assert through == direct
    assert "CANCELLED" in json.dumps(direct["result"])


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("status", ENDED)
def test_an_ended_run_is_refused_alike(panel: Panel, clients: dict[str, AnyClient], status: str, *, is_known: bool):
    (run,) = panel.runs(status)
    if is_known:
        panel.stack.manage("refresh", "ops-north")
    token = panel.shared_token()
    for client in (clients["sdk"], clients["js"]):
        direct = client.do(panel.direct, "cancel", run=run)
        sent = len(panel.stack.cancels_received(run))
        through = client.do(panel.through(token), "cancel", run=run)
        assert f"cannot cancel a run with status '{status}'" in json.dumps(direct["error"])
        assert seen(through) == seen(direct)
        assert len(panel.stack.cancels_received(run)) == sent or not is_known


def seen(outcome: Outcome) -> Any:
    """What a script reads of an error: the status and the detail. The panel's problems have a type of their own."""
    error = dict(outcome["error"])
    problem = error.pop("problem", None) or {}
    return error | {name: problem.get(name) for name in ("status", "detail")}


@pytest.mark.parametrize("status", ENDED)
def test_ax_says_alike_that_a_run_has_ended(panel: Panel, clients: dict[str, AnyClient], status: str):
    (run,) = panel.runs(status)
    direct, through = panel.both(clients["ax"], "cancel", run=run)
    assert f"400 Bad Request; cannot cancel a run with status '{status}'" in direct["error"]["text"]
    assert through == direct


@pytest.mark.parametrize("status", ENDED)
def test_airflow_takes_an_ended_run_for_done(panel: Panel, clients: dict[str, AnyClient], status: str):
    (run,) = panel.runs(status)
    direct, through = panel.both(clients["airflow"], "cancel", run=run)
    assert direct == {"result": {"run_id": run, "already_terminal": True}}
    assert through == direct


def test_airflow_fails_alike_if_it_must_not_ignore_that(panel: Panel, clients: dict[str, AnyClient]):
    (run,) = panel.runs("completed")
    direct, through = panel.both(clients["airflow"], "cancel", run=run, strict=True)
    assert direct["error"]["kind"] == "BadRequestException"
    assert seen(through) == seen(direct)


def test_cancelling_twice_is_refused_alike(panel: Panel, client: AnyClient):
    runs = panel.runs("running", 2)
    through = panel.through(panel.shared_token())
    cancelled_at_both(panel, client, runs, through)
    first, second = cancelled_at_both(panel, client, runs, through)
    assert "already_terminal" in json.dumps(first) or "status 'cancelled'" in json.dumps(first["error"])
    assert (second if "result" in first else seen(second)) == (first if "result" in first else seen(first))


def test_the_cancel_of_an_unknown_run_is_refused_alike(panel: Panel, client: AnyClient):
    direct, through = panel.both(client, "cancel", run=UNKNOWN_RUN)
    assert "does not exist or is not readable" in json.dumps(direct["error"])
    assert seen(through) == seen(direct)


def test_a_start_is_shown_alike_and_recorded(panel: Panel, client: AnyClient):
    task = panel.task()["id"]
    token = panel.token(name=f"start by {client.name}")
    outcomes = {}
    for name, target in {"direct": panel.direct, "through": panel.through(token)}.items():
        outcome = client.do(target, "trigger", task=task, **WINDOW)
        run = outcome["result"]["id"]
        outcomes[name] = plain(outcome, run)
        assert panel.stack.status_at_arize(run) == "pending"
    assert outcomes["through"] == outcomes["direct"]
    assert "PENDING" in json.dumps(outcomes["direct"])
    rows = panel.audit_rows(run)
    assert [row["event"] for row in rows] == ["run.trigger"]
    assert {name_of_token(row) for row in rows} == {f"start by {client.name}"}


@pytest.mark.parametrize("name", ["sdk", "airflow"])
def test_an_experiment_is_started_alike(panel: Panel, clients: dict[str, AnyClient], name: str):
    task = panel.task(kind="RUN_EXPERIMENT")["id"]
    through = panel.through(panel.shared_token())
    shown = []
    for target in (panel.direct, through):
        outcome = clients[name].do(target, "trigger", task=task, experiment_name=f"{name} at {target.port}")
        shown.append(plain(outcome, outcome["result"]["id"]))
        shown[-1]["result"].pop("experiment_id")
    assert shown[0] == shown[1]
    taken = clients[name].do(through, "trigger", task=task, experiment_name=f"{name} at {through.port}")
    assert seen(taken) == seen(
        clients[name].do(panel.direct, "trigger", task=task, experiment_name=f"{name} at {panel.direct.port}")
    )
    assert taken["error"]["status"] == 409


def test_a_start_with_a_reversed_window_is_refused_at_both(panel: Panel, client: AnyClient):
    """The panel refuses it before it sends anything, and says so."""
    task = panel.task()["id"]
    turned = {"data_start_time": WINDOW["data_end_time"], "data_end_time": WINDOW["data_start_time"]}
    direct, through = panel.both(client, "trigger", task=task, **turned)
    assert direct["error"].get("status") == through["error"].get("status")
    for outcome in (direct, through):
        assert "data_start_time must be before data_end_time." in json.dumps(outcome["error"])


def test_a_run_that_still_stops_is_shown_as_running(panel: Panel, client: AnyClient):
    """Time does not pass in this Arize, so the run never leaves the stopping state."""
    panel.stack.arize.fault(method="POST", path="/cancel", cancel_takes_seconds=600)
    direct, through = cancelled_at_both(panel, client, panel.runs("running", 2), panel.through(panel.shared_token()))
    assert "RUNNING" in json.dumps(direct["result"])
    assert through == direct


def test_a_cancel_that_arize_forbids_is_refused_alike(panel: Panel, client: AnyClient):
    (run,) = panel.runs("running")
    panel.stack.arize.fault(method="POST", path="/cancel", status=403, title="Access forbidden", detail="Not yours.")
    direct, through = panel.both(client, "cancel", run=run)
    assert "Not yours." in json.dumps(direct["error"])
    assert seen(through) == seen(direct)


def test_a_cancel_that_is_throttled_is_refused_alike(panel: Panel, client: AnyClient):
    (run,) = panel.runs("running")
    panel.stack.arize.fault(method="POST", path="/cancel", status=429, headers={"Retry-After": "1"}, detail="Slower.")
    direct, through = panel.both(client, "cancel", run=run)
    status = "429" if client.name == "ax" else 429
    assert str(status) in json.dumps(direct) or client.name == "js"
    assert direct["error"].get("status") == through["error"].get("status")
    assert direct["error"].get("code") == through["error"].get("code")


def test_a_lost_answer_is_found_out_by_the_panel(panel: Panel, clients: dict[str, AnyClient]):
    """Arize cancels the run, but the connection breaks. At Arize, the script does not know; the panel reads the run."""
    first, second = panel.runs("running", 2)
    panel.stack.arize.fault(method="POST", path="/cancel", cut="after")
    assert "error" in clients["sdk"].do(panel.direct, "cancel", run=first)
    through = clients["sdk"].do(panel.through(panel.shared_token()), "cancel", run=second)
    assert through["result"]["status"] == "CANCELLED"


def test_three_clients_that_cancel_one_run_get_one_answer(panel: Panel, clients: dict[str, AnyClient]):
    (run,) = panel.runs("running")
    panel.stack.arize.fault(method="POST", path="/cancel", latency_ms=1_500)
    through = panel.through(panel.shared_token())
    waiting = [clients[name].begin(through, "cancel", run=run) for name in ("sdk", "js", "airflow")]
    assert [wait()["result"]["status"] for wait in waiting] == ["CANCELLED"] * 3
    assert len(panel.stack.cancels_received(run)) == 1
