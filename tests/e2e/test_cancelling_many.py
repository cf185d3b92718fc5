"""Bulk cancel in a real browser: selection, confirmation and results."""

import pytest
from playwright.sync_api import expect

from taskruns.arize.ids import number_of
from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit
from tests.processes import wait_for


def _five(stack: Stack, status: str = "running") -> tuple[str, list[str]]:
    """Add five runs to a task of ops-north and to the board. Returns the task's id and the runs' ids."""
    task = stack.arize.tasks(limit=100)[7]["id"]
    ids = [run["id"] for run in stack.arize.add_runs(task, status=status, count=5)]
    stack.manage("refresh", "ops-north")
    return task, ids


def test_a_selection_survives_swaps_and_leads_to_a_true_summary(stack: Stack, visit: Visit) -> None:
    task, ids = _five(stack, "pending")
    oli = visit(stack, "oli")
    oli.open_board(f"?task={task}&status=pending&status=running")
    expect(oli.page.get_by_role("button", name="Cancel the selected runs")).to_be_hidden()
    for run_id in ids[:3]:
        oli.row(run_id).get_by_role("checkbox").check()
    expect(oli.page.get_by_text("3 selected on this page")).to_be_visible()
    stack.arize.call("PATCH", f"/sandbox/runs/{ids[0]}", body={"status": "running"})
    expect(oli.row(ids[0])).to_have_attribute("data-status", "running", timeout=30_000)
    expect(oli.row(ids[0]).get_by_role("checkbox")).to_be_checked()
    expect(oli.page.get_by_text("3 selected on this page")).to_be_visible()
    oli.page.reload()
    expect(oli.page.get_by_text("3 selected on this page")).to_be_visible()
    oli.page.get_by_role("button", name="Cancel the selected runs").click()
    expect(oli.page.get_by_role("heading", name="Cancel 3 runs?")).to_be_visible()
    # A browser that restores checkboxes by position would now select other runs.
    newer = [run["id"] for run in stack.arize.add_runs(task, status="running", count=2)]
    stack.manage("refresh", "ops-north")
    oli.page.go_back()
    expect(oli.page.get_by_text("3 selected on this page")).to_be_visible()
    for run_id in (*newer, *ids):
        expect(oli.row(run_id).get_by_role("checkbox")).to_be_checked(checked=run_id in ids[:3])
    oli.page.get_by_role("button", name="Cancel the selected runs").click()
    expect(oli.page.get_by_role("heading", name="Cancel 3 runs?")).to_be_visible()
    oli.page.get_by_label("Reason").fill("a bad prompt")
    oli.page.get_by_role("button", name="Cancel 3 runs").click()
    expect(oli.page.get_by_text("3 of 3 cancelled, 0 finished first, 0 still running.")).to_be_visible()
    requested: list[str] = []
    oli.page.on("request", lambda request: requested.append(request.url))
    oli.page.wait_for_timeout(5_000)
    assert requested == [], "a finished batch does not poll"
    assert {stack.status_at_arize(run_id) for run_id in ids[:3]} == {"cancelled"}
    assert {stack.status_at_arize(run_id) for run_id in ids[3:]} == {"pending"}
    assert [len(stack.cancels_received(run_id)) for run_id in ids] == [1, 1, 1, 0, 0]


def test_this_page_and_all_matching_runs_are_two_buttons(stack: Stack, visit: Visit) -> None:
    task, _ = _five(stack)
    oli = visit(stack, "oli")
    oli.open_board(f"?task={task}")
    oli.page.get_by_label("Select all on this page").check()
    boxes = oli.page.locator("[data-pick]")
    assert boxes.count() >= 5
    assert all(box.is_checked() for box in boxes.all())
    oli.page.get_by_role("button", name="that match").click()
    expect(oli.page.get_by_role("heading", name="Cancel")).to_contain_text("runs?")
    expect(oli.page.get_by_text("all runs that matched a filter")).to_be_visible()


def test_a_typed_search_is_applied_before_all_that_match_are_cancelled(stack: Stack, visit: Visit) -> None:
    task, ids = _five(stack)
    oli = visit(stack, "oli")
    oli.open_board(f"?task={task}")
    oli.page.get_by_label("Search runs").fill(ids[0])
    oli.page.get_by_role("button", name="that match").click()
    expect(oli.page.locator("[data-run-id]")).to_have_count(1)
    assert "q=" in oli.page.url
    oli.page.get_by_role("button", name="Cancel the run that matches…").click()
    expect(oli.page.get_by_role("heading", name="Cancel 1 run?")).to_be_visible()


@pytest.mark.parametrize("has_script", [True, False])
def test_only_what_can_be_done_with_the_selection_is_offered(stack: Stack, visit: Visit, *, has_script: bool) -> None:
    task, active = _five(stack)
    ended = [run["id"] for run in stack.arize.add_runs(task, status="failed", count=1)]
    stack.manage("refresh", "ops-north")
    visit(stack, "oli")
    oli = visit(stack, "oli", java_script_enabled=has_script)
    oli.open_board(f"?task={task}&status=running&status=failed")
    cancel = oli.page.get_by_role("button", name="Cancel the selected runs")
    again = oli.page.get_by_role("button", name="Start them again")
    oli.row(ended[0]).get_by_role("checkbox").check()
    expect(again).to_be_enabled()
    expect(cancel).to_be_hidden()
    oli.row(active[0]).get_by_role("checkbox").check()
    expect(again).to_be_enabled()
    expect(cancel).to_be_enabled()
    oli.row(ended[0]).get_by_role("checkbox").uncheck()
    expect(cancel).to_be_enabled()
    expect(again).to_be_hidden()
    cancel.click()
    expect(oli.page.get_by_role("heading", name="Cancel 1 run?")).to_be_visible()


def test_bulk_cancel_works_without_javascript(stack: Stack, visit: Visit) -> None:
    task, ids = _five(stack)
    visit(stack, "oli")  # signs in once with JavaScript; the next visit reuses the cookies
    oli = visit(stack, "oli", java_script_enabled=False)
    oli.open_board(f"?task={task}")
    expect(oli.page.get_by_label("Select all on this page")).to_be_hidden()
    for run_id in ids:
        oli.row(run_id).get_by_role("checkbox").check()
    oli.page.get_by_role("button", name="Cancel the selected runs").click()
    oli.page.get_by_label("Reason").fill("a bad prompt")
    oli.page.get_by_role("button", name="Cancel 5 runs").click()
    wait_for(lambda: {stack.status_at_arize(run_id) for run_id in ids} == {"cancelled"}, "five cancelled runs")
    oli.page.reload()
    wait_for(lambda: oli.page.reload() and "5 cancelled" in oli.page.content(), "the summary")


def test_cancelled_runs_are_started_again_from_their_batch(stack: Stack, visit: Visit) -> None:
    tasks = [it for it in stack.arize.tasks(limit=100) if it["project_id"] and "evaluation" in it["type"].lower()]
    ids = [run["id"] for run in stack.arize.add_runs(tasks[3]["id"], status="running", count=3)]
    stack.manage("refresh", "ops-north")
    oli = visit(stack, "oli")
    oli.open_board(f"?task={tasks[3]['id']}&status=running")
    for run_id in ids:
        oli.row(run_id).get_by_role("checkbox").check()
    oli.page.get_by_role("button", name="Cancel the selected runs").click()
    oli.page.get_by_label("Reason").fill("a bad prompt")
    oli.page.get_by_role("button", name="Cancel 3 runs").click()
    expect(oli.page.get_by_text("3 of 3 cancelled, 0 finished first, 0 still running.")).to_be_visible()
    stack.manage("refresh", "ops-north")
    oli.page.reload()
    oli.page.get_by_role("button", name="Start them again").click()
    expect(oli.page.get_by_role("heading", name="Start 3 runs again?")).to_be_visible()
    expect(oli.page.get_by_label("Reason")).to_have_value("a bad prompt")
    oli.page.get_by_label("Reason").fill("the prompt is mended")
    oli.page.get_by_text("Show each run and remove single ones").click()
    oli.page.get_by_role("button", name=f"Remove run {ids[0]}").click()
    expect(oli.page.get_by_role("heading", name="Start 2 runs again?")).to_be_visible()
    expect(oli.page.get_by_label("Reason")).to_have_value("the prompt is mended")
    oli.page.get_by_role("button", name="Start 2 runs again").click()
    expect(oli.page.get_by_text("2 of 2 started, 0 unknown, 0 not started.")).to_be_visible()
    new = oli.page.locator("#batch-new li")
    expect(new).to_have_count(2)
    known = {number_of(run["id"]): run for run in stack.arize.runs(tasks[3]["id"], limit=100)}
    started = new.locator("a").first.inner_text()
    assert known[started]["data_start_time"] in {known[number_of(run_id)]["data_start_time"] for run_id in ids[1:]}
    new.locator("a").first.click()
    expect(oli.page.locator("#run-head")).to_be_visible()
