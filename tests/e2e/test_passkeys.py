"""Passkeys in a real browser with a virtual device: added, used as a second factor, alone, and again."""

from playwright.sync_api import Page, expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit

PASSWORD = "another-horse-battery-7"
DEVICE = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


def sign_out(page: Page) -> None:
    page.get_by_text("tom@demo.example").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_passkey_signs_in_with_and_without_the_password(stack: Stack, visit: Visit) -> None:
    options = ("--role", "viewer", "--create", "--password-stdin")
    stack.manage("add_member", "ops-north", "tom@demo.example", *options, given=f"{PASSWORD}\n")
    tom = visit(stack)
    page = tom.page
    devices = tom.context.new_cdp_session(page)
    devices.send("WebAuthn.enable")
    devices.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    tom.sign_in("tom", password=PASSWORD)
    page.wait_for_url("**/runs/")

    page.goto("/accounts/factors/")
    page.get_by_role("link", name="Passkey or security key").click()
    page.get_by_label("Name").fill("Virtual key")
    page.get_by_label("Sign in with this passkey alone").check()
    page.get_by_role("button", name="Add passkey").click()
    expect(page.get_by_role("heading", name="Your recovery codes")).to_be_visible()
    expect(page.locator(".codes li")).to_have_count(10)
    page.get_by_role("link", name="I have saved them").click()
    expect(page.get_by_role("cell", name="Virtual key").first).to_be_visible()

    sign_out(page)
    tom.sign_in("tom", password=PASSWORD)
    expect(page.get_by_role("heading", name="Your second factor")).to_be_visible()
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url("**/runs/")

    sign_out(page)
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.wait_for_url("**/runs/")

    page.goto("/accounts/confirm/?next=/rights/")
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url("**/rights/")
    expect(page.get_by_role("heading", name="Roles and permissions")).to_be_visible()
