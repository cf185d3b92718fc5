"""Finding and cancelling a run without JavaScript, from sign-in to the audit log."""

from urllib.parse import quote

from playwright.sync_api import expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit

REASON = "no scripts here"


def test_sign_in_filter_cancel_and_read_who_did_it(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    oli = visit(stack, "", java_script_enabled=False)
    oli.sign_in("oli")
    oli.page.wait_for_url("**/runs/")
    oli.open_board()
    oli.page.get_by_role("searchbox").fill(run_id)
    oli.page.get_by_role("button", name="Apply filters", exact=True).click()
    expect(oli.page.locator("tr[data-run-id]")).to_have_count(1)
    oli.row(run_id).locator("a[data-task]").click()
    oli.page.locator("#run-head").get_by_label("Reason").fill(REASON)
    oli.page.get_by_role("button", name="Cancel this run").click()
    expect(oli.page.get_by_role("status")).to_contain_text("Cancelled. Arize confirmed it.")
    expect(oli.page.locator("#run-head")).to_contain_text(REASON)
    assert stack.status_at_arize(run_id) == "cancelled"
    assert len(stack.cancels_received(run_id)) == 1
    oli.page.reload()
    assert len(stack.cancels_received(run_id)) == 1, "a reload sends nothing"

    mona = visit(stack, "", java_script_enabled=False)
    mona.sign_in("mona")
    mona.page.goto(f"/teams/ops-north/audit/?run={quote(run_id)}")
    row = mona.page.locator("tr[data-event='run.cancel']")
    expect(row).to_contain_text("oli@demo.example asked to cancel")
    expect(row).to_contain_text(REASON)
    row.locator("summary").first.click()
    expect(row).to_contain_text("request_id")


def test_nothing_that_needs_a_script_is_shown(stack: Stack, visit: Visit) -> None:
    visit(stack, "oli")
    oli = visit(stack, "oli", java_script_enabled=False)
    oli.open_board()
    expect(oli.page.locator(".needs-script").first).to_be_attached()
    assert [node for node in oli.page.locator(".needs-script").all() if node.is_visible()] == []
    expect(oli.page.get_by_role("dialog")).to_have_count(0)
