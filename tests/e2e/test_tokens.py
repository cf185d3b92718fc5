"""A manager makes, replaces and revokes a token; the secret can be copied, and is gone with the page."""

import re

import pytest
from playwright.sync_api import Error, Page, expect

from tests.e2e.axe import faults, report
from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit

TOKENS = "/teams/ops-north/tokens/"
SECRET = re.compile(r"tr_[0-9A-Za-z]{36}")


def shown(page: Page) -> str:
    text = page.locator("#token-secret").inner_text()
    assert SECRET.fullmatch(text)
    return text


def test_a_token_is_made_replaced_and_revoked(stack: Stack, visit: Visit) -> None:
    mona = visit(stack, "mona", permissions=["clipboard-read", "clipboard-write"])
    page, found = mona.page, {}
    mona.expected = {422}
    page.goto(TOKENS)
    page.get_by_role("link", name="Create token").first.click()
    page.get_by_label("Name").fill("Nightly & co <b>")
    page.get_by_label("Role").select_option("operator")
    page.get_by_label("Only from these networks").fill("192.0.2.7/24")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_text("Write 192.0.2.0/24 for the whole network")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("Nightly & co <b>")
    found["error"] = faults(page)
    page.get_by_label("Only from these networks").fill("192.0.2.0/24")
    page.get_by_role("button", name="Create token").click()
    secret = shown(page)
    page.get_by_role("button", name="Copy the token").click()
    page.wait_for_function("async (secret) => (await navigator.clipboard.readText()) === secret", arg=secret)
    found["secret"] = faults(page)
    assert secret not in page.url
    page.get_by_role("link", name="I have copied it").click()
    row = page.get_by_role("row", name=re.compile("Nightly & co <b>"))
    expect(row).to_contain_text("working")
    found["list"] = faults(page)
    with pytest.raises(Error, match="ERR_CACHE_MISS"):  # the browser does not keep the page
        page.go_back()
    page.wait_for_url("chrome-error://**")
    page.goto(TOKENS)
    row.get_by_role("link", name="Replace").click()
    found["replace"] = faults(page)
    page.get_by_role("button", name="Replace token").click()
    assert shown(page) != secret
    expect(page.get_by_text("works until")).to_be_visible()
    page.get_by_role("link", name="I have copied it").click()
    old = row.filter(has_text="replaced")
    old.get_by_role("link", name="Revoke").click()
    found["revoke"] = faults(page)
    page.get_by_role("button", name="Revoke the token").click()
    expect(page.get_by_text("It no longer works.")).to_be_visible()
    expect(old).to_have_count(0)
    page.locator("summary", has_text="Ended in the last 30 days").click()
    found["ended"] = faults(page)
    assert not any(found.values()), report(found)
