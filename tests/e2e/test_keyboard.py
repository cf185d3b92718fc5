"""Finding and cancelling a run without a mouse: with single keys, and with Tab and Enter only."""

from playwright.sync_api import Page, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit, Visitor


def focused_run(page: Page) -> str:
    return str(page.evaluate("document.activeElement.closest('tr[data-run-id]')?.dataset.runId ?? ''"))


def tab_to(page: Page, selector: str, *, most: int = 200) -> None:
    """Press Tab until the element has the focus, like a person without a mouse."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} has no focus after {most} times Tab")


def test_keys_find_a_run_and_cancel_it(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    page = oli.page
    oli.open_board()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type(run_id)
    page.keyboard.press("Enter")
    page.wait_for_url("**q=**")
    expect(page.locator("tr[data-run-id]")).to_have_count(1)
    page.keyboard.press("j")
    assert focused_run(page) == run_id
    page.keyboard.press("c")
    expect(page.get_by_role("dialog")).to_contain_text(run_id)
    expect(page.get_by_label("Reason")).to_be_focused()
    page.keyboard.type("jkxc? by keys alone")
    page.keyboard.press("Enter")
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
    expect(oli.row(run_id)).to_contain_text("jkxc? by keys alone")
    assert len(stack.cancels_received(run_id)) == 1
    assert focused_run(page) == run_id, "the focus is on the row that was cancelled"


def test_tab_and_enter_sign_in_and_cancel(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    oli = visit(stack)
    page = oli.page
    page.goto("/accounts/login/")
    tab_to(page, "[name=login]")
    page.keyboard.type("oli@demo.example")
    tab_to(page, "[name=password]")
    page.keyboard.type(stack.password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/")
    page.goto(f"/teams/ops-north/runs/?q={run_id}")
    tab_to(page, "[data-cancel]")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Reason")).to_be_focused()
    tab_to(page, "#cancel-dialog .solid")
    page.keyboard.press("Enter")
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")


def test_keys_move_select_and_show_the_list_of_keys(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    page = oli.page
    oli.open_board()
    rows = page.locator("tr[data-run-id]").evaluate_all("rows => rows.map((row) => row.dataset.runId)")
    seen = []
    for key in "jjjkk":
        page.keyboard.press(key)
        seen.append(rows.index(focused_run(page)))
    assert seen == [0, 1, 2, 1, 0]
    page.keyboard.press("x")
    expect(oli.row(rows[0]).get_by_role("checkbox")).to_be_checked()
    expect(page.get_by_text("1 selected on this page")).to_be_visible()
    page.keyboard.press("x")
    expect(oli.row(rows[0]).get_by_role("checkbox")).not_to_be_checked()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("c")
    expect(page.get_by_role("dialog", name="Cancel this run?")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert focused_run(page) == rows[0], "the focus is where it was"


def test_a_viewers_keys_offer_no_cancel(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    for key in "jxc":
        vera.page.keyboard.press(key)
    expect(vera.page.get_by_role("dialog")).to_have_count(0)


def switch(visitor: Visitor, *, on: bool) -> None:
    visitor.page.goto("/accounts/profile/")
    visitor.page.get_by_role("checkbox", name="Keyboard shortcuts").set_checked(on)
    visitor.page.get_by_role("button", name="Save").click()
    expect(visitor.page.get_by_text("Profile saved.")).to_be_visible()


def test_keys_can_be_switched_off(stack: Stack, visit: Visit) -> None:
    otto = visit(stack, "otto")
    page = otto.page
    switch(otto, on=False)
    otto.open_board(team="ops-south")
    for key in "j/?":
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement === document.body")
    expect(page.get_by_role("dialog")).to_have_count(0)
    switch(otto, on=True)
    otto.open_board(team="ops-south")
    page.keyboard.press("j")
    assert focused_run(page), "the control"


PRESSED_TWICE = """(button) => {
  button.click();
  const again = new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true });
  document.activeElement.dispatchEvent(again);
  return again.defaultPrevented;
}"""


def test_enter_twice_or_held_on_a_rows_button_does_not_cancel(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    page = oli.page
    oli.open_board(f"?q={run_id}")
    assert oli.row(run_id).locator("[data-cancel]").evaluate(PRESSED_TWICE)
    expect(page.get_by_label("Reason")).to_be_focused()
    for _ in range(3):
        page.keyboard.down("Enter")  # from the second time on, the browser repeats it
    page.keyboard.up("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert stack.cancels_received(run_id) == []


def test_a_double_click_sends_a_form_once(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    page = oli.page
    oli.open_board(f"?q={run_id}")
    oli.row(run_id).locator("[data-task]").click()
    page.get_by_role("textbox", name="Note").fill("seen twice?")
    page.get_by_role("button", name="Add note").dblclick()
    expect(page.locator("#run-head")).to_contain_text("seen twice?")
    expect(page.locator("#run-head")).to_contain_text("Timeline")
