"""The board, a run and the confirmation of a bulk cancel in forced colours, where the reader's few colours replace the
page's: what is current, selected or focused differs in more than a colour of the page.
"""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit, Visitor

# Forced colours keep borders, outlines, weights and texts. They remove shadows and backgrounds.
LOOKS = """(node) => {
  const style = getComputedStyle(node);
  return {
    colour: style.color,
    back: style.backgroundColor,
    borders: [style.borderTopWidth, style.borderBottomWidth, style.borderBottomStyle, style.fontWeight],
    border: style.borderTopColor,
    ring: [style.outlineStyle, parseFloat(style.outlineWidth), style.outlineColor],
  };
}"""
PAGE = "getComputedStyle(document.body).backgroundColor"


def looks(locator: Locator) -> dict[str, Any]:
    found: dict[str, Any] = locator.evaluate(LOOKS)
    return found


@pytest.fixture(params=["light", "dark"])
def oli(request: pytest.FixtureRequest, stack: Stack, visit: Visit) -> Visitor:
    visitor = visit(stack, "oli", forced_colors="active", color_scheme=request.param)
    visitor.open_board("?status=failed")
    assert visitor.page.evaluate("matchMedia('(forced-colors: active)').matches")
    return visitor


def test_what_is_current_is_marked_without_colour(oli: Visitor) -> None:
    page = oli.page
    assert looks(page.locator("#chip-failed"))["borders"] != looks(page.locator("#chip-running"))["borders"]
    assert looks(page.locator(".nav-links a[aria-current]"))["borders"][1:3] == ["2px", "solid"]
    oli.open_board("?all=1")
    tabs = page.locator("#view-bar a")
    assert looks(tabs.nth(0))["borders"] != looks(tabs.nth(1))["borders"]


def test_each_status_is_a_visible_word_and_icon(oli: Visitor) -> None:
    page = oli.page
    words = set()
    for status in ("failed", "running", "completed", "cancelled"):
        oli.open_board(f"?status={status}")
        mark = page.locator("tr[data-run-id] .status").first
        expect(mark).to_have_text(status.upper())
        found, behind = looks(mark), page.evaluate(PAGE)
        assert behind not in {found["colour"], found["border"]}, "the word, and the box around it"
        icon = mark.locator("svg").evaluate("(icon) => [getComputedStyle(icon).color, icon.innerHTML.trim()]")
        assert icon[0] == found["colour"]
        words.add((status, icon[1]))
    assert len({icon for _, icon in words}) == 4, "each has its own icon"


def ring(page: Page, locator: Locator) -> Any:
    """The focus ring that the keyboard brings."""
    locator.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(locator).to_be_focused()
    return looks(locator)["ring"]


def test_the_focus_has_a_ring_and_a_selected_row_a_tick(oli: Visitor) -> None:
    page = oli.page
    oli.open_board("?status=running")
    row = page.locator("tr[data-run-id]").first
    behind = page.evaluate(PAGE)
    controls = (row.locator("a[data-task]"), row.get_by_role("checkbox"), row.get_by_role("button", name="Cancel"))
    for control in (*controls, page.locator("#chip-running"), page.get_by_role("searchbox")):
        style, width, colour = ring(page, control)
        assert (style, width >= 2, colour != behind) == ("solid", True, True), control
    box = row.get_by_role("checkbox")
    page.locator("#board-table").focus()
    before = box.screenshot()
    assert box.screenshot() == before, "the control"
    box.check()
    assert box.screenshot() != before
    expect(page.get_by_text("1 selected on this page")).to_be_visible()
    cancel = page.get_by_role("button", name="Cancel the selected runs")
    assert looks(cancel)["border"] != looks(cancel)["back"], "a border shows where the button ends"
    cancel.click()
    assert ring(page, page.get_by_label("Reason"))[0] == "solid"
