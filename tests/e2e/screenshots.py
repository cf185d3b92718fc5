"""`make screenshots`: retake the README's pictures, from a panel with recent actions."""

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from config.processes import ROOT
from tests.e2e.stack import Stack, running_stack
from tests.e2e.visitors import ARGUMENTS, CHROMIUM, Visitor

DOCS = ROOT / "docs"
WINDOW = {"width": 1280, "height": 960}
REASON = "Judge model is down, scores are wrong"


def main() -> None:
    if not CHROMIUM.exists():
        sys.exit(f"There is no {CHROMIUM}: pictures need Chromium (Debian: apt-get install chromium).")
    DOCS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_stack(Path(scratch), spare=5) as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        pictures: dict[str, Callable[[Browser, Stack], Visitor]] = {"board": board, "batch": batch, "audit": audit}
        for name, open_page in pictures.items():
            page = open_page(browser, stack).page
            page.screenshot(path=DOCS / f"{name}.png")
            page.context.close()
            sys.stdout.write(f"docs/{name}.png is taken.\n")
        browser.close()


def arrive(browser: Browser, stack: Stack, name: str, *, theme: str) -> Visitor:
    visitor = Visitor.arrive(stack, browser, viewport=WINDOW, color_scheme=theme)
    visitor.sign_in(name)
    visitor.page.wait_for_url("**/runs/")
    return visitor


def board(browser: Browser, stack: Stack) -> Visitor:
    """A run was just cancelled; others are running."""
    oli = arrive(browser, stack, "oli", theme="light")
    run_id = stack.take_run()
    oli.open_board("?sort=-created")
    oli.cancel(run_id, reason=REASON)
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
    oli.page.reload()
    return oli


def batch(browser: Browser, stack: Stack) -> Visitor:
    """A finished bulk cancel: Arize refused two runs."""
    task = stack.arize.tasks(limit=100)[9]["id"]
    stack.arize.add_runs(task, status="running", count=12)
    stack.manage("refresh", "ops-north")
    refusal = {"status": 403, "title": "Forbidden", "detail": "The key's role is too low in this space.", "count": 2}
    stack.arize.post("/sandbox/faults", {"method": "POST", "path": "/cancel"} | refusal)
    oli = arrive(browser, stack, "oli", theme="dark")
    oli.open_board(f"?task={task}")
    oli.page.get_by_role("button", name="that match").click()
    oli.page.get_by_label("Reason").fill(REASON)
    oli.page.get_by_role("button", name=re.compile(r"^Cancel \d+ runs$")).click()
    expect(oli.page.locator("#batch")).to_have_attribute("data-state", "finished", timeout=30_000)
    expect(oli.page.locator("#batch-failed li").nth(1)).to_be_visible(timeout=30_000)
    return oli


def audit(browser: Browser, stack: Stack) -> Visitor:
    """The log of the other pictures' actions and of one denial."""
    vera = arrive(browser, stack, "vera", theme="light")
    vera.page.goto("/teams/ops-north/credentials/")
    mona = arrive(browser, stack, "mona", theme="light")
    mona.page.goto("/teams/ops-north/audit/")
    return mona


if __name__ == "__main__":
    main()
