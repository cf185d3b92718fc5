"""The browser's notification at the end of a run."""

import pytest
from playwright.sync_api import expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit

# Browsers without a screen show no notifications: this one counts them.
NOTIFIES = """
window.Notification = class {
  static permission = "ANSWER";
  static async requestPermission() { return "ANSWER"; }
  constructor(title) {
    const shown = JSON.parse(sessionStorage.getItem("shown") ?? "[]");
    sessionStorage.setItem("shown", JSON.stringify([...shown, title]));
  }
  addEventListener() {}
};
"""
SHOWN = "JSON.parse(sessionStorage.getItem('shown') ?? '[]')"


def test_the_end_of_a_run_is_notified_once_also_after_a_reload(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.context.add_init_script(NOTIFIES.replace("ANSWER", "granted"))
    run_id = stack.take_run()
    oli.page.goto(f"/teams/ops-north/runs/by-arize-id/{run_id}/")
    button = oli.page.get_by_role("button", name="Notify me when this run ends")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    oli.page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert oli.page.evaluate(SHOWN) == []
    oli.page.get_by_role("button", name="Cancel this run").click()
    oli.page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(oli.page.locator("#run-page")).to_have_attribute("data-status", "cancelled")
    expect(button).to_be_hidden()
    oli.page.reload()
    expect(oli.page.locator("#run-page")).to_have_attribute("data-status", "cancelled")
    (title,) = oli.page.evaluate(SHOWN)
    assert title.startswith("CANCELLED: ")


@pytest.mark.parametrize("answer", ["denied", "default"])
def test_a_blocked_notification_is_said(answer: str, stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli")
    oli.context.add_init_script(NOTIFIES.replace("ANSWER", answer))
    oli.page.goto(f"/teams/ops-north/runs/by-arize-id/{stack.take_run()}/")
    button = oli.page.get_by_role("button", name="Notify me when this run ends")
    button.click()
    expect(oli.page.get_by_text("Your browser blocks notifications from this panel.")).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "false")
