"""Signing in with a real browser, and where it leads."""

from playwright.sync_api import expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit


def test_a_wrong_password_gets_an_explanation_and_keeps_the_email(stack: Stack, visit: Visit) -> None:
    visitor = visit(stack)
    visitor.sign_in("vera", password="not her password")
    expect(visitor.page.get_by_text("not correct")).to_be_visible()
    expect(visitor.page.get_by_label("Email")).to_have_value("vera@demo.example")
    expect(visitor.page.get_by_label("Password")).to_have_value("")


def test_an_anonymous_visitor_returns_to_the_page_after_sign_in(stack: Stack, visit: Visit) -> None:
    visitor = visit(stack)
    visitor.page.goto("/teams/ops-north/runs/?status=running")
    assert "/accounts/login/" in visitor.page.url
    visitor.page.get_by_label("Email").fill("vera@demo.example")
    visitor.page.get_by_label("Password").fill(stack.password)
    visitor.page.get_by_role("button", name="Sign in", exact=True).click()
    visitor.page.wait_for_url("**/teams/ops-north/runs/?status=running")


def test_an_outsider_gets_a_404_where_a_member_sees_the_board(stack: Stack, visit: Visit) -> None:
    otto, vera = visit(stack, "otto"), visit(stack, "vera")
    otto.expected.add(404)
    answers = [visitor.page.goto("/teams/ops-north/runs/") for visitor in (otto, vera)]
    assert [answer.status for answer in answers if answer] == [404, 200]
    expect(otto.page.locator("tr[data-run-id]")).to_have_count(0)
    expect(vera.page.locator("tr[data-run-id]").first).to_be_visible()


def test_an_ended_session_leads_to_sign_in_by_the_next_poll(stack: Stack, visit: Visit) -> None:
    ada = visit(stack)
    ada.expected.add(401)
    ada.sign_in("ada")
    ada.page.wait_for_url("**/runs/")
    ada.open_board()
    stack.manage("reset_sign_in", "ada@demo.example", "--password-stdin", given="another-horse-battery-9\n")
    ada.page.wait_for_url("**/accounts/login/?next=%2Fteams%2Fops-north%2Fruns%2F&undone=page", timeout=15_000)
    expect(ada.page.get_by_role("heading", name="Sign in")).to_be_visible()
