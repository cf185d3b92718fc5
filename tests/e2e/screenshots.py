"""`make screenshots`: takes docs/board.png, the README's picture, of a board on which somebody has just acted."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from config.processes import ROOT
from tests.e2e.stack import running_stack
from tests.e2e.visitors import ARGUMENTS, CHROMIUM, Visitor

PICTURE = ROOT / "docs" / "board.png"
REASON = "Judge model is down, scores are wrong"


def main() -> None:
    if not CHROMIUM.exists():
        sys.exit(f"There is no {CHROMIUM}: pictures need Chromium (Debian: apt-get install chromium).")
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_stack(Path(scratch), spare=3) as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        oli = Visitor.arrive(stack, browser, viewport={"width": 1280, "height": 1060}, color_scheme="light")
        oli.sign_in("oli")
        oli.page.wait_for_url("**/runs/")
        oli.open_board()
        run_id = stack.take_run()
        oli.cancel(run_id, reason=REASON)
        expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
        oli.page.reload()
        PICTURE.parent.mkdir(exist_ok=True)
        oli.page.screenshot(path=PICTURE)
        browser.close()
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)} is taken.\n")


if __name__ == "__main__":
    main()
