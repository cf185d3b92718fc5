"""Finding and cancelling a run without JavaScript, from sign-in to the audit log."""

from urllib.parse import quote

import pytest
from playwright.sync_api import Error, expect

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
    oli.page.get_by_role("button", name="Search", exact=True).click()
    expect(oli.page.locator("tr[data-run-id]")).to_have_count(1)
    oli.row(run_id).locator("a[data-task]").click()
    oli.page.get_by_role("button", name="Cancel this run").click()
    expect(oli.page.get_by_role("heading", name="Cancel this run?")).to_be_visible()
    assert stack.cancels_received(run_id) == []
    oli.page.get_by_label("Reason").fill(REASON)
    oli.page.get_by_role("button", name="Cancel the run").click()
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


def test_a_click_in_a_row_asks_and_keeping_it_sends_nothing(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    visit(stack, "oli")
    oli = visit(stack, "oli", java_script_enabled=False)
    oli.open_board(f"?q={run_id}")
    for _ in range(2):
        oli.row(run_id).get_by_role("button", name="Cancel").click()
        question = oli.page.locator("#cancel-question")
        for fact in (run_id, "RUNNING", "succeeded"):
            expect(question).to_contain_text(fact)
        oli.page.reload()
        question.get_by_role("link", name="Keep it running").click()
        oli.page.wait_for_url(f"**/teams/ops-north/runs/?q={run_id}")
    oli.page.goto(str(oli.row(run_id).get_by_role("button", name="Cancel").get_attribute("formaction")))
    expect(oli.page.locator("#run-page")).to_have_attribute("data-status", "running")
    assert stack.cancels_received(run_id) == []


def test_a_question_about_a_run_that_ended_has_no_button(stack: Stack, visit: Visit) -> None:
    """Two tabs ask about one run. After one has cancelled it, the other is reloaded."""
    run_id = stack.take_run()
    visit(stack, "oli")
    oli = visit(stack, "oli", java_script_enabled=False)
    first, second = oli.page, oli.context.new_page()
    for page in (first, second):
        page.goto(f"/teams/ops-north/runs/?q={run_id}")
        page.locator(f'tr[data-run-id="{run_id}"]').get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("heading", name="Cancel this run?")).to_be_visible()
    first.get_by_role("button", name="Cancel the run").click()
    expect(first.locator("#run-page")).to_have_attribute("data-status", "cancelled")
    second.reload()
    expect(second.get_by_role("heading", name="There is nothing to cancel")).to_be_visible()
    expect(second.locator("#cancel-question").get_by_role("button")).to_have_count(0)
    # No page may be stored, so Chromium does not show the question again, but asks whether to send its form once more.
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        first.go_back()
    assert len(stack.cancels_received(run_id)) == 1


def test_enter_twice_on_a_rows_button_does_not_cancel(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    visit(stack, "oli")
    oli = visit(stack, "oli", java_script_enabled=False)
    page = oli.page
    oli.open_board(f"?q={run_id}")
    oli.row(run_id).get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Cancel this run?")).to_be_focused()
    page.keyboard.press("Enter")
    assert stack.cancels_received(run_id) == []
    question = page.locator("#cancel-question")
    controls = (question.locator("dd a"), question.get_by_label("Reason"), question.get_by_text("Keep it running"))
    for control in (*controls, question.get_by_role("button", name="Cancel the run")):
        page.keyboard.press("Tab")
        expect(control).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#run-page")).to_have_attribute("data-status", "cancelled")


def test_nothing_that_needs_a_script_is_shown(stack: Stack, visit: Visit) -> None:
    visit(stack, "oli")
    oli = visit(stack, "oli", java_script_enabled=False)
    oli.open_board()
    expect(oli.page.locator(".needs-script").first).to_be_attached()
    assert [node for node in oli.page.locator(".needs-script").all() if node.is_visible()] == []
    expect(oli.page.get_by_role("dialog")).to_have_count(0)
