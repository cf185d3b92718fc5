"""Pages at 200 % and 400 % of a window of 1280 x 1024 px: nothing scrolls sideways, and nothing that has the focus is
below a bar.
"""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit, Visitor

ZOOMED = {"200 %": {"width": 640, "height": 512}, "400 %": {"width": 320, "height": 256}}
NORTH = "/teams/ops-north"
# What has the focus, what lies over it, and whether it can be seen at all.
FOCUS = """() => {
  const it = document.activeElement;
  if (it === document.body) return null;
  const box = it.getBoundingClientRect();
  const bar = (node) => {
    for (; node; node = node.parentElement) if (/fixed|sticky/.test(getComputedStyle(node).position)) return node;
  };
  const over = new Set();
  for (const across of [0.15, 0.5, 0.85]) for (const down of [0.15, 0.5, 0.85]) {
    const hit = document.elementFromPoint(box.left + box.width * across, box.top + box.height * down);
    if (hit && bar(hit) && bar(hit) !== bar(it)) over.add(bar(hit).id || bar(hit).className);
  }
  return {
    is: `${it.localName} “${(it.ariaLabel || it.textContent || it.name).trim().slice(0, 40)}”`,
    over: [...over],
    isSeen: box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}"""
IS_WIDE = "document.documentElement.scrollWidth > innerWidth"


def faults(page: Page, *, most: int = 30) -> list[Any]:
    """What is wrong while the focus goes through the page with Tab, and back over what was passed."""
    found: list[Any] = ["scrolls sideways"] if page.evaluate(IS_WIDE) else []
    page.locator(".skip").focus()
    pressed = []
    for key in ["Tab"] * most + ["Shift+Tab"] * (most // 2):
        page.keyboard.press(key)
        focus = page.evaluate(FOCUS)
        if focus is None:
            break
        pressed.append(focus["is"])
        found += [focus] if focus["over"] or not focus["isSeen"] else []
    assert len(pressed) > 3, "the control: something had the focus"
    return found + (["scrolls sideways, with the focus"] if page.evaluate(IS_WIDE) else [])


@pytest.fixture(params=ZOOMED)
def mona(request: pytest.FixtureRequest, stack: Stack, visit: Visit) -> Visitor:
    return visit(stack, "mona", viewport=ZOOMED[request.param])


@pytest.mark.parametrize(
    "path",
    [
        f"{NORTH}/runs/?all=1",
        f"{NORTH}/runs/?status=failed&q=evaluation&min_duration=1",
        *("/runs/", f"{NORTH}/stop/", f"{NORTH}/credentials/", f"{NORTH}/credentials/new/", f"{NORTH}/audit/"),
    ],
)
def test_a_zoomed_page_hides_nothing_that_has_the_focus(path: str, mona: Visitor) -> None:
    mona.page.goto(path)
    assert faults(mona.page) == []


def test_the_selection_of_a_zoomed_board_covers_no_row_in_use(mona: Visitor) -> None:
    mona.open_board("?status=running")
    boxes = mona.page.locator("[data-pick]")
    for number in range(3):
        boxes.nth(number).focus()
        mona.page.keyboard.press("Space")
        assert mona.page.evaluate(FOCUS)["over"] == [], "the box that was ticked"
    expect(mona.page.get_by_role("button", name="Cancel the selected runs")).to_be_in_viewport(ratio=1)
    assert faults(mona.page) == []


def test_a_zoomed_run_is_cancelled_from_its_row_its_page_and_in_bulk(stack: Stack, mona: Visitor) -> None:
    page = mona.page
    mona.open_board(f"?q={stack.take_run()}")
    cancel = page.locator("tr[data-run-id]").get_by_role("button", name="Cancel")
    cancel.focus()
    expect(cancel).to_be_in_viewport(ratio=1)
    cancel.click()
    keep = page.get_by_role("dialog").get_by_role("button", name="Cancel the run")
    keep.focus()
    expect(keep).to_be_in_viewport(ratio=1)
    page.keyboard.press("Escape")
    page.locator("tr[data-run-id] a[data-task]").click()
    expect(page.get_by_role("button", name="Cancel this run")).to_be_visible()
    assert faults(page) == []
    page.get_by_role("button", name="Cancel this run").focus()
    expect(page.get_by_role("button", name="Cancel this run")).to_be_in_viewport(ratio=1)
    page.go_back()
    page.locator("[data-pick]").check()
    page.get_by_role("button", name="Cancel the selected runs").click()
    expect(page.get_by_role("heading", name="Cancel 1 run?")).to_be_visible()
    assert faults(page) == []
    confirm = page.get_by_role("button", name="Cancel 1 run")
    confirm.focus()
    expect(confirm).to_be_in_viewport(ratio=1)


def test_a_covered_control_is_found(stack: Stack, visit: Visit) -> None:
    """The control of the tests above."""
    page = visit(stack, "vera", viewport=ZOOMED["400 %"]).page
    page.goto("/help/")
    assert faults(page) == []
    page.evaluate("""() => {
      const cover = Object.assign(document.createElement("div"), { id: "cover" });
      cover.style = "position: fixed; inset: 0 0 auto; height: 100px; background: red; z-index: 9";
      const wide = Object.assign(document.createElement("p"), { textContent: "x".repeat(400) });
      document.querySelector("main").prepend(cover, wide);
    }""")
    wrong = faults(page)
    assert any("cover" in fault["over"] for fault in wrong if isinstance(fault, dict))
    assert "scrolls sideways" in wrong
