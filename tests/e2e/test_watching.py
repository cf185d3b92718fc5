"""The board in a real browser."""

import re

from playwright.sync_api import Route, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit


def test_an_operator_sees_runs_of_many_tasks_with_active_ones_first(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.open_board()
    options = oli.page.get_by_label("Task", exact=True).locator("option")
    expect(options).to_have_count(1 + 24)
    statuses = oli.page.locator("tr[data-run-id]").evaluate_all("rows => rows.map((row) => row.dataset.status)")
    active = [status in {"running", "pending"} for status in statuses]
    assert len(statuses) == 50
    assert active == sorted(active, reverse=True)
    assert any(active)
    assert not all(active)


def test_the_board_keeps_its_filters_over_reload_and_the_back_button(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    vera.page.get_by_role("searchbox").fill("evaluation")
    vera.page.locator("#filters-box > summary").click()
    vera.page.get_by_label("COMPLETED").check()
    vera.page.wait_for_url("**q=evaluation**")
    vera.page.keyboard.press("Escape")
    for step in ("first", "reload", "back"):
        if step == "reload":
            vera.page.reload()
        if step == "back":
            vera.page.locator("tr[data-run-id] a[data-task]").first.click()
            expect(vera.page.get_by_role("heading", name="Timeline")).to_be_visible()
            vera.page.go_back()
        assert "q=evaluation" in vera.page.url, step
        assert "status=completed" in vera.page.url, step
        expect(vera.page.get_by_role("searchbox")).to_have_value("evaluation")
        expect(vera.page.locator("#chip-completed")).to_have_attribute("aria-current", "true")
        rows = vera.page.locator("tr[data-run-id]")
        expect(rows.first).to_be_visible()
        assert set(rows.evaluate_all("rows => rows.map((row) => row.dataset.status)")) == {"completed"}, step
        assert all("evaluation" in name.lower() for name in rows.locator("[data-task]").all_inner_texts()), step


def test_without_javascript_the_filter_works(stack: Stack, visit: Visit) -> None:
    visit(stack, "vera")  # signs in once with JavaScript; the next visit reuses the cookies
    vera = visit(stack, "vera", java_script_enabled=False)
    vera.open_board()
    vera.page.locator("#filters-box > summary").click()
    vera.page.get_by_label("FAILED").check()
    vera.page.get_by_role("button", name="Apply filters", exact=True).click()
    vera.page.wait_for_url("**/runs/?status=failed")
    rows = vera.page.locator("tr[data-run-id]")
    expect(rows.first).to_be_visible()
    assert {row.get_attribute("data-status") for row in rows.all()} == {"failed"}


def test_a_poll_without_changes_leaves_the_page_alone(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board("?status=completed")
    link = vera.page.locator("tr[data-run-id] a[data-task]").first
    link.focus()
    link.evaluate("node => { node.touched = true; }")
    for _ in range(2):
        with vera.page.expect_response(lambda answer: "/runs/table/" in answer.url):
            pass
    assert link.evaluate("node => node.touched && document.activeElement === node")


def test_a_run_links_to_its_task_and_a_bar_of_the_strip_to_its_run(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board("?status=completed")
    vera.page.locator("tr[data-run-id] a[data-task]").first.click()
    vera.page.get_by_role("link", name="View task").click()
    runs = vera.page.locator("#task-run-list > li")
    expect(runs.first).to_be_visible()
    marks = vera.page.locator("#task-strip svg a")
    assert marks.count() == min(runs.count(), 30)
    target = str(marks.first.get_attribute("href"))
    marks.first.click()
    vera.page.wait_for_url(f"**{target}")
    expect(vera.page.get_by_role("heading", name="Timeline")).to_be_visible()


def test_no_page_of_a_manager_writes_to_the_console(stack: Stack, visit: Visit) -> None:
    mona = visit(stack, "mona")
    pages = ("runs/", "runs/chart/", "credentials/", "credentials/new/", "members/", "settings/", "audit/")
    for page in pages:
        answer = mona.page.goto(f"/teams/ops-north/{page}")
        assert answer is not None
        assert answer.status == 200, page
    mona.page.goto("/runs/")
    expect(mona.page.get_by_role("link", name="Ops North").first).to_be_visible()


def test_forbidden_scripts_and_foreign_requests_are_detected(stack: Stack, visit: Visit) -> None:
    """The control of the check that every test's console is empty."""
    vera = visit(stack, "vera")
    vera.open_board()
    vera.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
    vera.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    vera.page.wait_for_function("() => true")
    seen = " ".join(vera.troubles)
    vera.troubles.clear()
    assert "CSP script-src" in seen
    assert "Content Security Policy" in seen


def test_a_page_that_polls_adopts_the_interval_of_each_answer(stack: Stack, visit: Visit) -> None:
    """A task's page polls slowly until a run starts."""
    vera = visit(stack, "vera")
    vera.open_board("?status=completed")
    vera.page.locator("tr[data-run-id] a[data-task]").first.click()
    vera.page.get_by_role("link", name="View task").click()
    poll = vera.page.locator("#task-page")
    expect(poll).to_be_visible()

    def hurry(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=re.sub(r"every \d+s, refresh", "every 1s, refresh", answer.text()))

    vera.page.route(re.compile(r"/tasks/[0-9a-f-]{36}/$"), hurry)
    poll.evaluate("node => htmx.trigger(node, 'refresh')")
    expect(poll).to_have_attribute("hx-trigger", "every 1s, refresh")
    # With the interval that the page began with, the second one would come too late.
    for _ in range(2):
        with vera.page.expect_response(lambda answer: "/tasks/" in answer.url, timeout=4_000):
            pass
