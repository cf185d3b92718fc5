"""A person with a browser. Console errors, CSP violations and requests to other hosts fail the test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, expect

from tests.e2e.stack import Stack

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# htmx's console messages for an aborted poll. The page aborts polls itself before it shows a newer answer.
_ABORTED_POLL = ("htmx:sendAbort", "htmx:afterRequest")
_WATCH = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP ${event.violatedDirective} ${event.blockedURI}`));
"""


@dataclass
class Visitor:
    """`troubles`: console errors, CSP violations, script errors and requests to other hosts, in order.

    `expected`: statuses whose "Failed to load resource" line belongs to the test.
    """

    stack: Stack
    context: BrowserContext
    page: Page
    expected: set[int] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)

    @classmethod
    def arrive(cls, stack: Stack, browser: Browser, **options: Any) -> "Visitor":
        context = browser.new_context(base_url=stack.url, **options)
        context.set_default_timeout(20_000)
        if options.get("java_script_enabled", True):
            context.add_init_script(_WATCH)
        visitor = cls(stack, context, context.new_page())
        context.on("console", visitor._on_console)
        context.on("weberror", lambda error: visitor.troubles.append(f"script: {error.error}"))
        context.on("request", visitor._on_request)
        return visitor

    def _on_console(self, message: ConsoleMessage) -> None:
        expected = any(f"status of {status} " in message.text for status in self.expected)
        if message.type == "error" and not expected and not message.text.startswith(_ABORTED_POLL):
            self.troubles.append(f"console: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.stack.url).netloc and not request.url.startswith("data:"):
            self.troubles.append(f"foreign request: {request.url}")

    def sign_in(self, name: str, *, password: str | None = None) -> None:
        self.page.goto("/accounts/login/")
        self.page.get_by_label("Email").fill(f"{name}@demo.example")
        self.page.get_by_label("Password").fill(password or self.stack.password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()

    def open_board(self, query: str = "", *, team: str = "ops-north") -> None:
        self.page.goto(f"/teams/{team}/runs/{query}")
        expect(self.page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()

    def row(self, run_id: str) -> Locator:
        return self.page.locator(f'tr[data-run-id="{run_id}"]')

    def cancel(self, run_id: str, *, reason: str = "") -> None:
        """Cancel in the dialog, like a person with JavaScript."""
        self.row(run_id).get_by_role("button", name="Cancel").click()
        dialog = self.page.get_by_role("dialog")
        expect(dialog).to_contain_text(run_id)
        dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name="Cancel the run").click()


Visit = Callable[..., Visitor]  # the fixture `visit`
