"""axe on every page, light and dark, at three widths; and no page wider than the window."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.axe import WIDTHS, faults, report
from tests.e2e.stack import SPARE, Stack
from tests.e2e.visitors import Visit, Visitor

NORTH = "/teams/ops-north"
PAGES = {
    "mona": (
        *(f"{NORTH}/runs/", f"{NORTH}/runs/?status=failed&q=evaluation&min_duration=1", f"{NORTH}/runs/?q=no+such+run"),
        *(f"{NORTH}/runs/export/", f"{NORTH}/runs/chart/", f"{NORTH}/batches/", f"{NORTH}/stop/", f"{NORTH}/views/"),
        *(f"{NORTH}/channels/", f"{NORTH}/channels/new/", f"{NORTH}/channels/arize/"),
        *(f"{NORTH}/tokens/", f"{NORTH}/tokens/new/"),
        *(f"{NORTH}/credentials/", f"{NORTH}/credentials/new/", f"{NORTH}/members/", f"{NORTH}/settings/"),
        *(f"{NORTH}/audit/", f"{NORTH}/audit/?person=nobody", "/runs/", "/help/", "/rights/", "/accounts/profile/"),
        *("/accounts/sessions/", "/accounts/factors/", "/accounts/factors/app/", "/accounts/factors/passkey/"),
        *("/accounts/password/change/", "/accounts/confirm/password/", "/accounts/logout/"),
    ),
    "oli": (f"{NORTH}/credentials/", f"{NORTH}/nothing/", f"{NORTH}/runs/?status=nonsense"),  # 403, 404, 400
    "adam": ("/runs/", "/people/", "/teams/new/", "/audit/", f"{NORTH}/archive/"),
    "": ("/accounts/login/", "/invitations/nonsense/"),
}


@pytest.mark.parametrize(("who", "path"), [(who, path) for who, paths in PAGES.items() for path in paths])
def test_axe_finds_nothing_on_any_page(who: str, path: str, reader: Callable[[str], Visitor]) -> None:
    visitor = reader(who)
    visitor.expected, visitor.troubles = {400, 403, 404}, []
    visitor.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    visitor.page.emulate_media(color_scheme="light")
    visitor.page.goto(path)
    assert faults(visitor.page) == []
    assert visitor.troubles == []


def first_link(visitor: Visitor, path: str, selector: str) -> str:
    visitor.page.goto(path)
    return str(visitor.page.locator(selector).first.get_attribute("href"))


def test_axe_finds_nothing_on_pages_of_a_run_task_key_and_person(stack: Stack, visit: Visit) -> None:
    mona, adam = visit(stack, "mona"), visit(stack, "adam")
    found = {}
    run = first_link(mona, f"{NORTH}/runs/?status=failed", "tr[data-run-id] a[data-task]")
    ended = first_link(mona, f"{NORTH}/runs/?status=running", "tr[data-run-id] a[data-task]")
    task = first_link(mona, run, "a[href*='/tasks/']")
    keys = [first_link(mona, f"{NORTH}/credentials/", f"a[href$='/{act}/']") for act in ("replace", "revoke")]
    for path in (run, ended, task, f"{task}trigger/", *keys):
        mona.page.goto(path)
        found[path] = faults(mona.page)
    person = first_link(adam, "/people/", "tbody a[href^='/people/']")
    for path in (person, f"{person}disable/"):
        adam.page.goto(path)
        found[path] = faults(adam.page)
    assert not any(found.values()), report(found)


def test_axe_finds_nothing_on_the_pages_of_a_channel(stack: Stack, visit: Visit) -> None:
    mona = visit(stack, "mona")
    page = mona.page
    page.goto(f"{NORTH}/channels/new/")
    page.get_by_label("Name").fill("Room")
    page.get_by_label("Kind").select_option("slack")
    page.get_by_label("Address").fill("https://alerts.example.com/hook")
    page.get_by_role("button", name="Add channel").click()
    expect(page.get_by_role("heading", name="Room")).to_be_visible()
    channel, found = page.url, {}
    page.get_by_role("button", name="Mute for 1 h").click()
    expect(page.get_by_text("Channel “Room” is muted until")).to_be_visible()
    page.get_by_role("button", name="Send a test message").click()
    rule = first_link(mona, channel, "a[href*='/rules/']:not([href$='/new/'])")
    for path in (channel, f"{channel}change/", f"{channel}remove/", f"{channel}rules/new/", rule, f"{NORTH}/channels/"):
        page.goto(path)
        found[path] = faults(page)
    assert not any(found.values()), report(found)


def test_axe_finds_nothing_on_dialogs_previews_and_results(stack: Stack, visit: Visit) -> None:
    """The dialogs, a preview, a finished batch, a link for a new person, a form with errors."""
    found: dict[str, list[str]] = {}
    task = stack.arize.tasks(limit=100)[SPARE]["id"]
    ids = [run["id"] for run in stack.arize.add_runs(task, status="running", count=2)]
    stack.manage("refresh", "ops-north")
    mona = visit(stack, "mona")
    page = mona.page

    def check(what: str, act: Callable[[], Any]) -> None:
        page.set_viewport_size({"width": 1280, "height": 900})
        act()
        found[what] = faults(page)

    mona.open_board(f"?task={task}&status=running")
    check("cancel dialog", lambda: mona.row(ids[0]).get_by_role("button", name="Cancel").click())
    page.keyboard.press("Escape")
    check("shortcuts", lambda: page.keyboard.press("?"))
    page.keyboard.press("Escape")
    check("question", lambda: ask_without_dialog(mona, ids[0]))
    page.go_back()
    page.get_by_label("Select all on this page").check()
    check("preview", lambda: page.get_by_role("button", name="Cancel the selected runs").click())
    page.get_by_label("Reason").fill("a bad prompt")
    page.get_by_role("button", name=re.compile(r"^Cancel \d+ runs?$")).click()
    expect(page.get_by_text("0 still running.")).to_be_visible()
    check("batch", lambda: None)
    check("invitation", lambda: invite(page))
    mona.expected.add(422)
    check("mistakes", lambda: page.get_by_role("button", name="Add", exact=True).click())
    assert not any(found.values()), report(found)


def ask_without_dialog(mona: Visitor, run_id: str) -> None:
    """Send the button's form without a click, for which the script would show the dialog."""
    button = mona.row(run_id).get_by_role("button", name="Cancel")
    with mona.page.expect_navigation():
        button.evaluate("button => button.form.requestSubmit(button)")
    expect(mona.page.get_by_role("heading", name="Cancel this run?")).to_be_visible()


def invite(page: Page) -> None:
    page.goto(f"{NORTH}/members/")
    page.get_by_label("Email").fill("somebody.new@demo.example")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("Pass this link on")).to_be_visible()
    page.get_by_label("Email").fill("x" * 300 + "@demo.example")


def test_axe_finds_nothing_on_the_board_of_a_new_team(stack: Stack, visit: Visit) -> None:
    stack.manage("create_team", "Newcomers", "--slug", "newcomers")
    stack.manage("add_member", "newcomers", "mona@demo.example", "--role", "manager")
    mona = visit(stack, "mona")
    mona.page.goto("/teams/newcomers/runs/")
    expect(mona.page.get_by_role("heading", name="First steps")).to_be_visible()
    assert faults(mona.page) == []


def test_axe_finds_nothing_on_the_style_guide(stack: Stack, visit: Visit) -> None:
    with stack.with_debug() as debugging:
        vera = visit(debugging, "vera")
        vera.page.goto("/styleguide/")
        expect(vera.page.get_by_role("heading", name="Style guide")).to_be_visible()
        assert faults(vera.page) == []


def test_a_planted_fault_is_found(stack: Stack, visit: Visit) -> None:
    """The control of the tests above."""
    vera = visit(stack, "vera")
    vera.page.goto("/help/")
    vera.page.evaluate("""() => {
      const button = document.createElement("button");
      button.className = "copy";
      const wide = Object.assign(document.createElement("p"), { className: "status", textContent: "x".repeat(900) });
      const faint = Object.assign(document.createElement("p"), { textContent: "faint" });
      faint.style.color = "#222222";
      document.querySelector("main").append(button, wide, faint, new Image());
    }""")
    wrong = " ".join(faults(vera.page))
    assert all(
        rule in wrong for rule in ("button-name", "image-alt", "320: wider than the window", "dark: color-contrast")
    )
