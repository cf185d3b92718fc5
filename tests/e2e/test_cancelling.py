"""Cancelling in a real browser, up to what Arize receives."""

import re
from urllib.parse import quote

from playwright.sync_api import Route, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit

REASON = "Judge model is down, wrong scores"
SCRIPT = re.compile(r"/app(\.\w+)?\.js$")


def test_an_operator_cancels_in_the_dialog_and_a_manager_sees_who_and_why(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    oli.open_board()
    oli.page.evaluate("window.sameDocument = true")
    oli.cancel(run_id, reason=REASON)
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
    expect(oli.row(run_id)).to_contain_text("oli@demo.example")
    expect(oli.row(run_id).get_by_role("button", name="Cancel")).to_have_count(0)
    assert oli.page.evaluate("window.sameDocument"), "the page was reloaded"
    assert stack.status_at_arize(run_id) == "cancelled"
    assert [entry["status"] for entry in stack.cancels_received(run_id)] == [200]

    mona = visit(stack, "mona")
    mona.page.goto(f"/teams/ops-north/audit/?event=run.cancel&run={quote(run_id)}")
    operation = mona.page.locator("tr[data-event='run.cancel']")
    expect(operation).to_have_count(1)
    expect(operation).to_have_attribute("data-outcome", "confirmed")
    for words in ("run.cancel / requested", "run.cancel / confirmed", REASON):
        expect(operation).to_contain_text(words)
    expect(operation.locator(".c-who")).to_contain_text("oli@demo.example")
    expect(operation.locator(".c-who")).to_contain_text("operator")


def test_keeping_it_running_sends_nothing(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    oli.open_board()
    oli.row(run_id).get_by_role("button", name="Cancel").click()
    oli.page.get_by_role("button", name="Keep it running").click()
    expect(oli.page.get_by_role("dialog")).to_have_count(0)
    expect(oli.row(run_id)).to_have_attribute("data-status", "running")
    assert stack.cancels_received(run_id) == []


def test_a_second_browser_sees_the_change_by_polling(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    oli, vera = visit(stack, "oli"), visit(stack, "vera")
    vera.open_board()
    expect(vera.row(run_id)).to_have_attribute("data-status", "running")
    oli.open_board()
    oli.cancel(run_id)
    expect(vera.row(run_id)).to_have_attribute("data-status", "cancelled", timeout=15_000)
    expect(vera.row(run_id)).to_contain_text("oli@demo.example")


def test_a_click_before_the_script_has_loaded_is_a_question(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    oli.page.route(SCRIPT, hold)
    oli.page.goto(f"/teams/ops-north/runs/?q={run_id}", wait_until="commit")
    oli.row(run_id).get_by_role("button", name="Cancel").click()
    question = oli.page.locator("#cancel-question")
    expect(question).to_contain_text(run_id)
    assert held, "the script was held back"
    assert stack.cancels_received(run_id) == []
    question.get_by_label("Reason").fill(REASON)
    question.get_by_role("button", name="Cancel the run").click()
    oli.page.unroute(SCRIPT)
    expect(oli.page.locator("#run-page")).to_have_attribute("data-status", "cancelled")
    expect(oli.page.locator("#run-history")).to_contain_text(REASON)
    assert len(stack.cancels_received(run_id)) == 1


def test_a_dialog_older_than_the_panel_is_asked_again(stack: Stack, visit: Visit) -> None:
    """The dialog of a board that is open since before an upgrade confirms nothing."""
    run_id, oli = stack.take_run(), visit(stack, "oli")
    oli.open_board(f"?q={run_id}")
    oli.page.evaluate("document.querySelector('#cancel-dialog [name=confirmed]').remove()")
    oli.cancel(run_id, reason=REASON)
    question = oli.page.locator("#main #cancel-question")
    expect(question.get_by_role("heading", name="Cancel this run?")).to_be_focused()
    expect(question.get_by_label("Reason")).to_have_value(REASON)
    assert stack.cancels_received(run_id) == []
    question.get_by_role("button", name="Cancel the run").click()
    expect(oli.page.locator("#run-page")).to_have_attribute("data-status", "cancelled")
    assert len(stack.cancels_received(run_id)) == 1


def test_a_viewer_has_no_button_and_a_forged_post_is_refused(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    oli, vera = visit(stack, "oli"), visit(stack, "vera")
    oli.open_board()
    url = oli.row(run_id).get_by_role("button", name="Cancel").get_attribute("formaction")
    assert url
    vera.open_board()
    expect(vera.row(run_id)).to_be_visible()
    expect(vera.row(run_id).get_by_role("button", name="Cancel")).to_have_count(0)
    token = vera.page.locator("#board [name=csrfmiddlewaretoken]").get_attribute("value")
    form = {"csrfmiddlewaretoken": token or "", "confirmed": "1"}
    forged = vera.context.request.post(url, form=form, headers={"Origin": stack.url})
    assert forged.status == 403
    assert "role" in forged.text().lower() or "right" in forged.text().lower()
    assert stack.cancels_received(run_id) == []
    assert stack.status_at_arize(run_id) == "running"


def test_a_cancel_with_a_lost_answer_is_confirmed_in_the_end(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    stack.arize.post("/sandbox/faults", {"method": "POST", "path": "/cancel", "cut": "after", "count": 1})
    oli.open_board()
    oli.cancel(run_id, reason=REASON)
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
    assert [entry["status"] for entry in stack.cancels_received(run_id)] == [None]
    oli.row(run_id).locator("[data-task]").click()
    expect(oli.page.locator("#run-history")).to_contain_text("run.cancel / confirmed")


def test_a_refused_cancel_keeps_the_run_and_says_why(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    oli.expected.add(409)
    fault = {"method": "POST", "path": "/cancel", "status": 403, "title": "Forbidden", "count": 1}
    stack.arize.post("/sandbox/faults", fault)
    oli.open_board()
    oli.cancel(run_id)
    expect(oli.page.locator("#messages")).to_contain_text("Forbidden")
    expect(oli.row(run_id)).to_have_attribute("data-status", "running")
    expect(oli.row(run_id).get_by_role("button", name="Cancel")).to_be_visible()


def test_a_cancel_after_the_session_ended_sends_nothing_and_says_so(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    oli.expected.add(401)
    oli.open_board(f"?q={run_id}")
    oli.context.clear_cookies(name=re.compile("sessionid$"))  # with the port in front
    oli.cancel(run_id, reason=REASON)
    expect(oli.page.get_by_role("alert")).to_contain_text(
        "Nothing was sent to Arize. Sign in, then click Cancel again."
    )
    assert stack.cancels_received(run_id) == []
    oli.page.get_by_label("Email").fill("oli@demo.example")
    oli.page.get_by_label("Password").fill(stack.password)
    oli.page.get_by_role("button", name="Sign in", exact=True).click()
    oli.page.wait_for_url(f"**/teams/ops-north/runs/?q={run_id}")
    oli.cancel(run_id, reason=REASON)
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
