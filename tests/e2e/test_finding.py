"""Sorting, saved views, the chart, the CSV download and starting a run, in a real browser."""

import re

from playwright.sync_api import expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit


def test_a_heading_sorts_and_the_order_survives_the_next_page(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    vera.page.get_by_role("link", name="Duration").click()
    heading = vera.page.get_by_role("columnheader", name="Duration")
    expect(heading).to_have_attribute("aria-sort", "descending")
    vera.page.get_by_role("link", name="Next page").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    vera.page.get_by_role("link", name="Previous page").click()
    expect(vera.page.get_by_role("link", name="Previous page")).to_have_count(0)
    vera.page.get_by_role("link", name="Duration").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")


def test_a_saved_view_opens_with_its_filter(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.open_board("?status=failed&sort=-errors")
    oli.page.get_by_text("Save this view").click()
    oli.page.get_by_label("Name", exact=True).fill("What broke")
    oli.page.get_by_role("button", name="Save").click()
    oli.open_board("?all=1")
    oli.page.get_by_role("link", name="What broke").click()
    expect(oli.page.locator("#chip-failed")).to_have_attribute("aria-current", "true")
    rows = oli.page.locator("tr[data-run-id]")
    assert set(rows.evaluate_all("rows => rows.map((row) => row.dataset.status)")) == {"failed"}


def test_a_chip_keeps_the_search_that_is_typed_but_not_applied(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.open_board("?status=completed")
    oli.page.get_by_role("searchbox", name="Search runs").fill("nightly")
    oli.page.locator("#chip-running").click()
    oli.page.wait_for_url(re.compile(r"/runs/\?(?=.*status=running)(?=.*q=nightly)"))
    expect(oli.page.get_by_role("searchbox", name="Search runs")).to_have_value("nightly")


def test_the_strip_of_hours_leads_to_the_numbers_of_each_hour(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board("?status=completed")
    expect(vera.page.locator("#board-hours svg.chart-bars")).to_be_visible()
    vera.page.get_by_text("More", exact=True).click()
    vera.page.get_by_role("link", name="Runs per hour").click()
    vera.page.get_by_text("Show as table").click()
    hours = vera.page.locator("#board-chart tbody th a")
    expect(hours).to_have_count(24)
    hours.last.click()
    vera.page.wait_for_url("**/runs/?status=completed&created_after=*&created_before=*")


def test_the_runs_of_a_filter_can_be_downloaded(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board("?status=completed")
    vera.page.get_by_text("More", exact=True).click()
    vera.page.get_by_role("link", name="CSV").click()
    said = re.search(r"([\d,]+) runs?", vera.page.locator("main").inner_text())
    assert said is not None
    with vera.page.expect_download() as download:
        vera.page.get_by_role("link", name=re.compile("Download|CSV")).last.click()
    lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + int(said[1].replace(",", ""))


def test_a_started_run_is_on_the_board_at_once(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.open_board("?type=template_evaluation")
    oli.page.locator("tr[data-run-id] a[data-task]").first.click()
    oli.page.get_by_role("link", name="View task").click()
    oli.page.get_by_role("link", name="Start a run").click()
    oli.page.get_by_role("button", name=re.compile("Start")).click()
    expect(oli.page.locator("#run-page")).to_be_visible()
    run_id = oli.page.locator("#run-page").get_attribute("data-run-id")
    assert run_id is not None
    assert stack.status_at_arize(run_id) in {"pending", "running"}
    oli.open_board()
    expect(oli.row(run_id)).to_be_visible()


def test_the_first_page_is_light(stack: Stack, visit: Visit) -> None:
    """Less than 100 kB over the network, including styles and scripts."""
    vera = visit(stack, "vera")
    session = vera.context.new_cdp_session(vera.page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    vera.open_board()
    vera.page.wait_for_load_state("networkidle")
    assert len(sizes) > 3
    assert sum(sizes) < 100_000
