"""The live board: polls, swaps, ended sessions, two people at once, and the cost of a minute."""

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.e2e.stack import SPARE, Stack
from tests.e2e.visitors import Visit

TABLE = "/runs/table/"
# Layout shifts after the page has settled.
WATCH_SHIFTS = """() => {
  window.shifts = [];
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      if (entry.hadRecentInput) continue;
      window.shifted += entry.value;
      for (const { node } of entry.sources) shifts.push(`${entry.value}: ${node?.nodeName} ${node?.textContent}`);
    }
  }).observe({ type: "layout-shift" });
}"""


COUNT_ROWS = """() => {
  window.came = 0;
  new MutationObserver((all) => { for (const { addedNodes } of all) window.came += addedNodes.length; })
    .observe(document.querySelector("#board-body"), { childList: true });
}"""


def polls_in(page: Page, seconds: float) -> int:
    seen: list[str] = []

    def note(request: Any) -> None:
        if TABLE in request.url:
            seen.append(request.url)

    page.on("request", note)
    page.wait_for_timeout(1000 * seconds)
    page.remove_listener("request", note)
    return len(seen)


def hide(page: Page, *, hidden: bool) -> None:
    """Act like a browser whose tab is hidden or shown again."""
    page.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_hidden_tab_does_not_poll_until_it_is_shown_again(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    hide(vera.page, hidden=True)
    assert polls_in(vera.page, 6) == 0
    with vera.page.expect_request(lambda request: TABLE in request.url, timeout=1_500):
        hide(vera.page, hidden=False)
    assert polls_in(vera.page, 6) >= 1, "the control"


def test_a_pause_lasts_until_it_is_ended(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    pause = vera.page.get_by_role("button", name="Pause live updates")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    expect(vera.page.get_by_text("Live updates paused")).to_be_visible()
    vera.page.reload()
    expect(pause).to_have_attribute("aria-pressed", "true")
    assert polls_in(vera.page, 6) == 0
    with vera.page.expect_request(lambda request: TABLE in request.url, timeout=1_500):
        pause.click()


def test_open_sections_are_open_after_a_reload(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    kind = vera.page.get_by_label("Type", exact=True)
    vera.page.locator("#filters-box > summary").click()
    expect(kind).to_be_visible()
    vera.page.reload()
    expect(kind).to_be_visible()
    vera.page.locator("#filters-box > summary").click()
    expect(kind).to_be_hidden()
    vera.page.reload()
    expect(vera.page.locator("tr[data-run-id]").first).to_be_visible()
    expect(kind).to_be_hidden()


def test_a_session_that_ends_on_the_board_leads_to_sign_in_and_back(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "")
    vera.sign_in("vera")
    vera.page.wait_for_url("**/runs/")
    vera.open_board("?status=failed")
    vera.expected.add(401)
    vera.context.clear_cookies()
    vera.page.wait_for_url("**/accounts/login/**", timeout=15_000)
    expect(vera.page.locator("table")).to_have_count(0)
    vera.page.get_by_label("Email").fill("vera@demo.example")
    vera.page.get_by_label("Password").fill(stack.password)
    vera.page.get_by_role("button", name="Sign in", exact=True).click()
    vera.page.wait_for_url("**/teams/ops-north/runs/?status=failed")


def test_two_people_cancel_one_run_and_both_see_the_outcome(stack: Stack, visit: Visit) -> None:
    run_id = stack.take_run()
    oli, mona = visit(stack, "oli"), visit(stack, "mona")
    for person in (oli, mona):
        person.expected.add(409)
        person.open_board()
        person.row(run_id).get_by_role("button", name="Cancel").click()
    dialogs = [person.page.get_by_role("dialog", name="Cancel this run?") for person in (oli, mona)]
    confirms = [dialog.get_by_role("button", name="Cancel the run") for dialog in dialogs]
    stack.arize.post("/sandbox/faults", {"method": "POST", "path": "/cancel", "latency_ms": 2000, "count": 1})
    confirms[0].click(no_wait_after=True)
    confirms[1].click(no_wait_after=True)
    for person in (oli, mona):
        expect(person.row(run_id)).to_have_attribute("data-status", "cancelled", timeout=15_000)
        expect(person.row(run_id)).to_contain_text("@demo.example")
    messages = " ".join(person.page.get_by_role("status").inner_text() for person in (oli, mona))
    assert re.search(r"already|in progress|had ended|nothing to cancel", messages), messages
    assert len(stack.cancels_received(run_id)) == 1


def test_the_first_page_is_light_and_calls_no_other_host(stack: Stack, visit: Visit) -> None:
    """Counts the bytes with an empty cache. Every visitor already fails on requests to other hosts."""
    vera = visit(stack, "vera")
    wire = vera.context.new_cdp_session(vera.page)
    wire.send("Network.enable")
    wire.send("Network.setCacheDisabled", {"cacheDisabled": True})
    sizes: list[float] = []
    wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    vera.open_board()
    vera.page.wait_for_load_state("networkidle")
    assert len(sizes) > 5
    assert sum(sizes) < 100_000


def test_nothing_moves_with_reduced_motion(stack: Stack, visit: Visit) -> None:
    still, moving = (visit(stack, "vera", reduced_motion=wish) for wish in ("reduce", "no-preference"))
    measured = []
    for person in (still, moving):
        person.open_board()
        measured.append(
            person.page.evaluate(
                "[...document.querySelectorAll('*')]"
                ".filter((node) => getComputedStyle(node).transitionDuration !== '0s').length"
            )
        )
    assert measured[0] == 0
    assert measured[1] > 0, "the control"


# --- A minute


def heap(wire: CDPSession) -> dict[str, float]:
    for _ in range(3):
        wire.send("HeapProfiler.collectGarbage")
    return {metric["name"]: metric["value"] for metric in wire.send("Performance.getMetrics")["metrics"]}


@pytest.fixture
def fifty(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    """A task with four pages of runs, and its 50 running ones, which are completed after the test."""
    task = stack.arize.tasks(limit=100)[SPARE + 1]["id"]
    stack.arize.add_runs(task, status="completed", count=160)
    ids = [run["id"] for run in stack.arize.add_runs(task, status="running", count=50)]
    stack.manage("refresh", "ops-north")
    yield task, ids
    set_statuses(stack, ids, "completed")
    stack.manage("refresh", "ops-north")


def set_statuses(stack: Stack, ids: list[str], status: str) -> None:
    for changed in ids:
        stack.arize.call("PATCH", f"/sandbox/runs/{quote(changed, safe='')}", body={"status": status})


def test_a_minute_of_changing_rows_keeps_focus_position_and_memory(
    stack: Stack, visit: Visit, fifty: tuple[str, list[str]]
) -> None:
    """All rows except the focused one change repeatedly: at least 200 are replaced."""
    task, ids = fifty
    oli = visit(stack, "oli")
    page = oli.page
    oli.open_board(f"?task={task}")
    expect(page.locator("tr[data-run-id]")).to_have_count(50)
    expect(page.get_by_role("link", name="Next page")).to_be_visible()
    wire = oli.context.new_cdp_session(page)
    wire.send("Performance.enable")
    watched = page.locator("tr[data-run-id]").nth(10)
    watched.get_by_role("button", name="Cancel").focus()
    run_id = str(watched.get_attribute("data-run-id"))
    page.evaluate("scrollTo(0, 200)")
    page.evaluate(WATCH_SHIFTS)
    page.evaluate(COUNT_ROWS)
    others = [changed for changed in ids if changed != run_id]
    measured: list[dict[str, float]] = []  # each measured with the rows in the same state
    began = time.monotonic()
    while time.monotonic() - began < 60 or len(measured) < 2:
        for status in ("pending", "running"):
            set_statuses(stack, others, status)
            changed = page.locator(f"tr[data-run-id][data-status={status}]")
            expect(changed).to_have_count(len(others) + (status == "running"), timeout=30_000)
        if time.monotonic() - began > 15:
            measured.append(heap(wire))
    assert page.evaluate("window.came") >= 200
    assert page.evaluate("document.activeElement.closest('tr')?.dataset.runId") == run_id, "the focus moved"
    assert page.evaluate("document.activeElement.matches('[data-cancel]')")
    assert page.evaluate("scrollY") == 200
    # A fifth of the limit for "good" layout shift. A row that grows by one line exceeds it.
    assert page.evaluate("window.shifted") < 0.02, "\n".join(page.evaluate("window.shifts"))
    # Each swap replaces a quarter of all nodes. If old nodes leaked, there would be twice as many now.
    for name in ("Nodes", "JSEventListeners", "JSHeapUsedSize"):
        assert measured[-1][name] <= measured[0][name] * 1.25, (name, measured)
