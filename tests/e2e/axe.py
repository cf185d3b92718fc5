"""What axe finds on a page, light and dark, at three widths; and whether the page is wider than the window."""

from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

WIDTHS = (1280, 768, 320)
# axe turns WCAG 2.2's rule for targets of 24 px off by default. The second theme differs only in colours, so the rules
# about colours are enough there.
EVERYTHING = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
COLOURS = {"resultTypes": ["violations"], "runOnly": ["color-contrast", "link-in-text-block"]}
THEMES: dict[Any, dict[str, Any]] = {"light": EVERYTHING, "dark": COLOURS}


def faults(page: Page) -> list[str]:
    """Violations that axe finds, and pages wider than the window, at each width in each theme."""
    found = []
    page.evaluate(AXE_SCRIPT)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{width}: wider than the window")
        for theme, options in THEMES.items():
            # Turn off transitions, or axe would measure colours halfway between the themes.
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            for violation in page.evaluate("async (options) => (await axe.run(options)).violations", options):
                nodes = [node["html"][:150] for node in violation["nodes"][:3]]
                found.append(f"{width} {theme}: {violation['id']}: {nodes}")
    return found


def report(found: dict[str, list[str]]) -> str:
    return "\n".join(f"{page}: {fault}" for page, wrong in found.items() for fault in wrong)
