"""Names of any length take two lines, wherever they are."""

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit

NORTH = "/teams/ops-north"
LONG = ("A very long name " * 200)[:3_000]


def lengthen(page: Page, selector: str, text: str = LONG) -> None:
    page.locator(selector).first.evaluate("(node, text) => { node.textContent = text; }", text)


def lines_of(element: Locator) -> float:
    line = "parseFloat(getComputedStyle(node).lineHeight)"
    return float(element.evaluate(f"(node) => node.getBoundingClientRect().height / {line}"))


def stop_polling(page: Page) -> None:
    """A poll would bring the short name back."""
    page.locator("[data-poll]").first.evaluate("(node) => node.removeAttribute('hx-trigger')")


def box_of(element: Locator) -> FloatRect:
    box = element.bounding_box()
    assert box is not None
    return box


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("text", [LONG, "x" * 3_000], ids=["words", "one word"])
def test_a_long_name_keeps_the_height_of_its_row(text: str, width: int, stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera", viewport={"width": width, "height": 900})
    vera.open_board("?status=completed")
    stop_polling(vera.page)
    row = vera.page.locator("tr[data-run-id]").first
    link, before = row.locator("a[data-task]"), box_of(row)["height"]
    for selector in ("a[data-task] bdi", ".kind bdi"):
        lengthen(vera.page, f"tr[data-run-id] {selector}", text)
    assert lines_of(link) < 2.2
    assert box_of(row)["height"] - before < 70
    assert vera.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    beside, named = box_of(row.locator("a.only")), box_of(link)
    assert beside["y"] < named["y"] + named["height"], "the filter stays beside the name"


def test_long_names_take_two_lines_in_headers_and_the_dialog(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.open_board("?status=running")
    row = oli.page.locator("tr[data-run-id]").first
    stop_polling(oli.page)
    lengthen(oli.page, "tr[data-run-id] a[data-task] bdi")
    row.get_by_role("button", name="Cancel").click()
    told = oli.page.locator("[data-fill=task]")
    expect(told).to_have_text(LONG.strip())
    assert lines_of(told) < 2.2
    oli.page.get_by_role("button", name="Keep it running").click()
    url = row.locator("a[data-task]").get_attribute("href")
    assert url is not None
    oli.page.goto(url)
    lengthen(oli.page, "h1 bdi")
    assert lines_of(oli.page.locator("h1")) < 2.2
    oli.page.get_by_role("link", name="View task").click()
    lengthen(oli.page, "h1 bdi")
    assert lines_of(oli.page.locator("h1")) < 2.2
    oli.page.goto(f"{NORTH}/stop/")
    lengthen(oli.page, ".stop-tasks a bdi")
    assert lines_of(oli.page.locator(".stop-tasks a").first) < 2.2
