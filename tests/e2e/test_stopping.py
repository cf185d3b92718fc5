"""The emergency stop of Ops South, from the board to what Arize receives. The other tests use Ops North."""

import pytest
from playwright.sync_api import expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit
from tests.processes import wait_for
from tests.sandbox.caller import Caller

REASON = "Judge model is down, wrong scores"


def test_without_javascript_a_stop_is_pulled_holds_and_is_lifted(stack: Stack, visit: Visit) -> None:
    arize = Caller(stack.arize.url, stack.keys["DEMO_KEY_SOUTH"])
    kept, held = arize.tasks(limit=2)[:2]
    (spared,), (hit,) = arize.add_runs(kept["id"]), arize.add_runs(held["id"])
    stack.manage("refresh", "ops-south")
    watching = visit(stack, "otto")
    watching.open_board(team="ops-south")
    stands = watching.page.get_by_role("region", name="Emergency stop")
    expect(stands).to_have_count(0)
    otto = visit(stack, "otto", java_script_enabled=False)
    otto.open_board(team="ops-south")
    otto.page.get_by_role("link", name="Emergency stop").click()
    otto.page.get_by_label(f"exclude {kept['name']}", exact=True).first.check()
    otto.page.get_by_label("Reason").fill(REASON)
    otto.page.get_by_role("button", name="Pull the emergency stop").click()
    banner = otto.page.get_by_role("region", name="Emergency stop")
    expect(banner).to_contain_text("pulled by Otto (otto@demo.example)")
    expect(banner).to_contain_text(REASON)
    expect(stands, "a board that was open before").to_contain_text(REASON)

    def status(run_id: str) -> str:
        return str(arize.run(run_id)["status"])

    wait_for(lambda: status(hit["id"]) == "CANCELLED", "the first cancel", within=20)
    (new,) = arize.add_runs(held["id"])
    stack.manage("refresh", "ops-south")
    wait_for(lambda: status(new["id"]) == "CANCELLED", "the cancel of a new run", within=20)
    assert [len(stack.cancels_received(run["id"])) for run in (hit, new, spared)] == [1, 1, 0]
    stack.manage("refresh", "ops-south")
    otto.page.goto(f"/teams/ops-south/runs/by-arize-id/{new['id']}/")
    expect(otto.page.locator("#run-head")).to_contain_text(
        f"cancelled by the emergency stop of Otto (otto@demo.example): {REASON}"
    )

    otto.page.get_by_role("link", name="Lift the stop").click()
    otto.page.get_by_role("button", name="Lift the stop").click()
    expect(otto.page.get_by_role("status")).to_contain_text("Emergency stop lifted")
    expect(otto.page.get_by_role("region", name="Emergency stop")).to_have_count(0)
    expect(stands).to_have_count(0)
    (later,) = arize.add_runs(held["id"])
    stack.manage("refresh", "ops-south")
    assert stack.cancels_received(later["id"]) == []
    assert status(later["id"]) == "RUNNING"


@pytest.mark.parametrize("has_script", [True, False])
def test_enter_on_the_checkbox_of_a_task_pulls_nothing(stack: Stack, visit: Visit, *, has_script: bool) -> None:
    visit(stack, "otto")
    otto = visit(stack, "otto", java_script_enabled=has_script)
    otto.page.goto("/teams/ops-south/stop/")
    otto.page.get_by_label("Reason").fill(REASON)
    boxes = otto.page.locator("[name=left_out]")
    otto.page.locator("details:has([name=left_out]) > summary").click()
    boxes.first.focus()
    otto.page.keyboard.press("Enter")
    expect(otto.page.get_by_role("button", name="Pull the emergency stop")).to_be_visible()
    expect(otto.page.get_by_label("Reason")).to_have_value(REASON)
    otto.page.reload()
    expect(otto.page.locator("#stop-standing")).to_have_count(0)
