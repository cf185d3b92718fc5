"""The parts of a person's own pages that need the script: the browser's time zone, and recovery codes to take along."""

from pathlib import Path

from playwright.sync_api import expect

from tests.clients import code_of
from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit, Visitor

PASSWORD = "a-new-horse-battery-7"


def newcomer(stack: Stack, visit: Visit, name: str) -> Visitor:
    member = ("add_member", "ops-south", f"{name}@demo.example", "--role", "viewer", "--create", "--password-stdin")
    stack.manage(*member, given=f"{PASSWORD}\n")
    visitor = visit(stack, timezone_id="Europe/Berlin")
    visitor.sign_in(name, password=PASSWORD)
    visitor.page.wait_for_url("**/runs/")
    return visitor


def test_the_profile_offers_the_time_zone_of_the_browser(stack: Stack, visit: Visit) -> None:
    page = newcomer(stack, visit, "zoe").page
    page.goto("/accounts/profile/")
    zone, offer = page.get_by_label("Time zone"), page.get_by_role("button", name="Use it and save")
    expect(zone).to_have_value("UTC")
    offer.click()
    expect(page.get_by_text("Profile saved.")).to_be_visible()
    expect(zone).to_have_value("Europe/Berlin")
    expect(offer).to_be_hidden()


def test_recovery_codes_can_be_copied_downloaded_and_printed(stack: Stack, visit: Visit) -> None:
    visitor = newcomer(stack, visit, "zack")
    page = visitor.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/accounts/factors/app/")
    expect(page.get_by_label("Authenticator code")).to_be_focused()
    page.keyboard.type(code_of(page.locator(".secret").inner_text()))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your recovery codes")).to_be_visible()
    codes = page.locator(".codes code").all_inner_texts()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    downloaded = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == "taskruns-recovery-codes.txt"
    assert downloaded.splitlines()[-10:] == codes
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == downloaded
    page.evaluate("window.print = () => { window.wasPrinted = true }")
    page.get_by_role("button", name="Print").click()
    assert page.evaluate("window.wasPrinted")
    page.emulate_media(media="print")
    expect(page.locator(".codes")).to_be_visible()
    expect(page.get_by_role("link", name="Download")).to_be_hidden()
    assert visitor.troubles == []
