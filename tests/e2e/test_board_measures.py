"""What the board promises its reader, measured: how high the runs begin, how many are seen, what moves, what is in the
way of the keyboard.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Locator, Route, expect

from tests.e2e.stack import SPARE, Stack
from tests.e2e.visitors import Visit, Visitor

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MEASURE = """() => {
  const rows = [...document.querySelectorAll("tr[data-run-id]")].map((row) => row.getBoundingClientRect());
  const controls = "a[href], button, input:not([type=hidden]), select, textarea, summary";
  const isShown = (it) => it.getBoundingClientRect().width > 0 && !it.closest("tr[data-run-id], dialog");
  return {
    top: rows[0].top,
    whole: rows.filter((row) => row.top >= 0 && row.bottom <= innerHeight).length,
    controls: [...document.querySelectorAll(controls)].filter(isShown).length,
    isWide: document.documentElement.scrollWidth > innerWidth,
  };
}"""
TOPS = """() => [...document.querySelectorAll(".header, .board-toolbar, #board-chips, #board-rows, tr[data-run-id]")]
  .map((node) => node.getBoundingClientRect().top)"""


VIEWS = {"What failed": "status=failed", "What is slow": "min_duration=600", "What was stopped": "status=cancelled"}


def view_link(visitor: Visitor, name: str) -> Locator:
    """The tab of a saved view, or its link in the menu of views."""
    return visitor.page.locator(f"#view-bar a[title='{name}']")


def save_view(visit: Visit, stack: Stack, name: str = "What failed") -> None:
    oli = visit(stack, "oli")
    oli.open_board(f"?{VIEWS[name]}")
    if view_link(oli, name).count():
        return
    oli.page.get_by_text("Save this view").click()
    oli.page.get_by_label("Name", exact=True).fill(name)
    oli.page.get_by_label("Share it with the team").check()
    oli.page.get_by_role("button", name="Save", exact=True).click()
    expect(view_link(oli, name)).to_be_attached()


def new_team(stack: Stack) -> str:
    """A team with runs, whose manager still sees the first steps."""
    stack.manage("create_team", "Measured", "--slug", "measured")
    stack.manage("add_member", "measured", "mona@demo.example", "--role", "manager")
    endpoint, key = stack.environment["DEMO_ENDPOINT"], stack.keys["DEMO_KEY_NORTH"]
    stack.manage("add_credential", "measured", "Key", "--endpoint", endpoint, "--key-stdin", given=key)
    stack.manage("refresh", "measured")
    return "measured"


def measured(visitor: Visitor, query: str = "?all=1", *, team: str = "ops-north") -> dict[str, Any]:
    visitor.open_board(query, team=team)
    expect(visitor.page.locator("tr[data-run-id]").first).to_be_visible()
    found: dict[str, Any] = visitor.page.evaluate(MEASURE)
    return found


@pytest.mark.parametrize("who", ["oli", "mona"])
@pytest.mark.parametrize(("size", "highest", "rows"), [(WIDE, 220, 10), (NARROW, 240, 4)], ids=["wide", "narrow"])
def test_the_runs_begin_high_and_many_are_seen(
    size: Any, highest: int, rows: int, who: str, stack: Stack, visit: Visit
) -> None:
    save_view(visit, stack)
    visitor = visit(stack, who, viewport=size)
    found = measured(visitor)
    expect(view_link(visitor, "What failed")).to_be_attached()
    expect(visitor.page.locator("#board-warnings > *")).to_have_count(0)
    assert found["top"] <= highest, found
    assert found["whole"] >= rows, found
    assert not found["isWide"]


@pytest.mark.parametrize(("size", "highest", "rows"), [(WIDE, 220, 10), (NARROW, 240, 4)], ids=["wide", "narrow"])
def test_first_steps_are_one_line_that_can_be_dismissed(
    size: Any, highest: int, rows: int, stack: Stack, visit: Visit
) -> None:
    team, mona = new_team(stack), visit(stack, "mona", viewport=size)
    found = measured(mona, team=team)
    steps = mona.page.get_by_role("region", name="First steps")
    expect(steps).to_contain_text("Invite a colleague")
    assert found["top"] <= highest, found
    assert found["whole"] >= rows, found
    mona.page.get_by_role("button", name="Do not show the first steps again").click()
    expect(steps).to_have_count(0)
    after = measured(mona, team=team)
    expect(steps).to_have_count(0)
    assert after["top"] < found["top"]


@pytest.mark.parametrize("who", ["mona", "oli", "vera"])
def test_few_controls_are_in_the_way_to_the_first_run(who: str, stack: Stack, visit: Visit) -> None:
    for name in VIEWS:
        save_view(visit, stack, name)
    visitor = visit(stack, who, viewport=WIDE)
    page = visitor.page
    assert measured(visitor)["controls"] <= 25
    presses = 0
    while not page.evaluate("document.activeElement.matches('tr[data-run-id] *')"):
        page.keyboard.press("Tab")
        presses += 1
    assert 5 < presses <= 12
    in_sight = [page.get_by_role("button", name="Pause live updates")]
    in_sight += [] if who == "vera" else [page.get_by_role("link", name="Emergency stop")]
    for control in in_sight:
        expect(control).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("options", [{}, {"java_script_enabled": False}], ids=["script", "no script"])
def test_the_pages_of_a_team_are_in_its_menu(options: dict[str, bool], stack: Stack, visit: Visit) -> None:
    visit(stack, "mona")
    page = visit(stack, "mona", **options).page
    page.goto("/teams/ops-north/runs/?all=1")
    page.locator("summary", has_text="Ops North").click()
    links = page.locator(".nav .menu-list a").all()
    for link in links:
        link.click(trial=True)  # fails if something lies over it, such as the board's toolbar
    for name in ("API keys", "Members", "Audit", "Settings"):
        page.goto("/teams/ops-north/runs/?all=1")
        link = page.get_by_role("navigation", name="Ops North").get_by_role("link", name=name)
        expect(link).to_have_count(0)
        page.locator("summary", has_text="Ops North").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        for _ in links:
            if link.evaluate("(link) => link === document.activeElement"):
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/runs/" not in url)
        expect(page.locator(".nav-links a[aria-current=page]"), "the page that is open").to_have_text(name)


def test_of_many_saved_views_one_is_a_tab(stack: Stack, visit: Visit) -> None:
    for name in VIEWS:
        save_view(visit, stack, name)
    vera = visit(stack, "vera", viewport=WIDE)
    vera.open_board("?all=1")
    tabs = vera.page.locator("#view-bar > ul a")
    expect(tabs).to_have_count(3)
    shown = tabs.last.get_attribute("title")
    other = next(name for name in VIEWS if name != shown)
    expect(view_link(vera, other)).to_be_hidden()
    vera.page.locator("#view-bar summary").click()
    view_link(vera, other).click()
    vera.page.wait_for_url(f"**/runs/?{VIEWS[other]}")
    expect(tabs.last, "the current one is in sight").to_have_attribute("title", other)


@pytest.mark.parametrize("who", ["mona", "oli", "vera"])
def test_the_first_link_skips_to_the_list(who: str, stack: Stack, visit: Visit) -> None:
    page = visit(stack, who).page
    page.goto("/teams/ops-north/runs/?all=1")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the runs")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#board-table")).to_be_focused()


def test_arrow_keys_move_in_a_toolbar(stack: Stack, visit: Visit) -> None:
    page = visit(stack, "vera").page
    page.goto("/teams/ops-north/runs/?status=failed")
    chips = page.locator("#board-chips a")
    expect(chips.nth(2)).to_have_attribute("tabindex", "0")
    expect(chips.nth(2)).to_have_attribute("aria-current", "true")
    chips.nth(2).focus()
    for key, place in (("ArrowRight", 3), ("Home", 0), ("ArrowLeft", 0), ("End", chips.count() - 1)):
        page.keyboard.press(key)
        expect(chips.nth(place)).to_be_focused()
    with page.expect_response(lambda answer: "/runs/table/" in answer.url):
        pass
    expect(chips.last).to_be_focused()
    assert page.locator("#board-chips a[tabindex='0']").count() == 1


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_number_of_failed_runs_is_on_the_first_screen(size: Any, stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera", viewport=size)
    vera.open_board()
    chip = vera.page.locator("#chip-failed")
    box = chip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    assert box["y"] + box["height"] <= size["height"]
    assert int(chip.locator("b").inner_text().replace(",", "")) > 0
    chip.click()
    vera.page.wait_for_url("**/runs/?status=failed")
    expect(chip).to_have_attribute("aria-current", "true")
    statuses = vera.page.locator("tr[data-run-id]").evaluate_all("rows => rows.map((row) => row.dataset.status)")
    assert set(statuses) == {"failed"}
    chip.click()
    vera.page.wait_for_url("**/runs/?all=1")


def test_a_count_changes_on_an_open_board_and_keeps_the_focus(stack: Stack, visit: Visit) -> None:
    task = stack.arize.tasks(limit=100)[SPARE + 2]["id"]
    vera = visit(stack, "vera")
    vera.open_board()
    chip = vera.page.locator("#chip-running")
    before = int(chip.locator("b").inner_text())
    chip.focus()
    stack.arize.add_runs(task, status="running", count=2)
    stack.manage("refresh", "ops-north")
    expect(chip.locator("b")).not_to_have_text(str(before), timeout=15_000)
    expect(chip).to_be_focused()


# --- Messages


def test_an_answered_cancel_moves_nothing(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli", viewport=WIDE)
    oli.open_board(f"?q={run_id}")
    expect(oli.page.locator("tr[data-run-id]")).to_have_count(1)
    before = oli.page.evaluate(TOPS)
    oli.cancel(run_id)
    message = oli.page.locator("#messages .notice-success")
    expect(message).to_be_visible()
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")
    assert oli.page.evaluate(TOPS) == before
    message.hover()
    oli.page.wait_for_timeout(9_500)
    expect(message, "it waits for its reader").to_be_visible()
    oli.page.mouse.move(700, 300)
    expect(message).to_have_count(0, timeout=10_000)
    assert oli.page.evaluate(TOPS) == before


def test_a_refusal_stays_until_it_is_dismissed(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli", viewport=WIDE)
    oli.expected.add(409)
    fault = {"method": "POST", "path": "/cancel", "status": 403, "title": "Forbidden", "count": 1}
    stack.arize.post("/sandbox/faults", fault)
    oli.open_board(f"?q={run_id}")
    before = oli.page.evaluate(TOPS)
    oli.cancel(run_id)
    message = oli.page.locator("#messages .notice-error")
    expect(message).to_be_visible()
    oli.page.wait_for_timeout(9_500)
    expect(message).to_be_visible()
    assert oli.page.evaluate(TOPS) == before
    message.get_by_role("button", name="Dismiss this message").click()
    expect(message).to_have_count(0)
    assert oli.page.evaluate(TOPS) == before


def test_a_confirmed_cancel_says_at_once_that_it_is_sent(stack: Stack, visit: Visit) -> None:
    run_id, oli = stack.take_run(), visit(stack, "oli")
    stack.arize.post("/sandbox/faults", {"method": "POST", "path": "/cancel", "latency_ms": 1500, "count": 1})
    oli.open_board(f"?q={run_id}")
    oli.cancel(run_id)
    expect(oli.row(run_id)).to_contain_text(re.compile("sending…", re.IGNORECASE), timeout=700)
    expect(oli.row(run_id)).to_have_attribute("data-status", "cancelled")


# --- Filters


def test_a_filter_applies_on_change_and_leaves_a_clean_address(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    page = vera.page
    vera.open_board()
    page.locator("#filters-box > summary").click()
    page.get_by_label("Type", exact=True).select_option("code_evaluation")
    page.wait_for_url("**/runs/?type=code_evaluation")
    expect(page.get_by_label("Type", exact=True), "the form is open again").to_be_focused()
    page.get_by_label("Runs longer than").fill("1")
    page.keyboard.press("Tab")
    page.wait_for_url("**/runs/?type=code_evaluation&min_duration=1")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="type code evaluation").click()
    page.wait_for_url("**/runs/?min_duration=1")
    page.get_by_role("searchbox").fill("evaluation")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/?*q=evaluation*")
    assert not re.search(r"=(&|$)", page.url)
    page.get_by_role("link", name="Clear filters").click()
    page.wait_for_url("**/runs/?all=1")


def test_an_hour_of_the_strip_leads_to_its_runs(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera", viewport=WIDE)
    vera.open_board("?status=completed")
    strip = vera.page.locator(".hours-link")
    box = strip.bounding_box()
    assert box is not None
    assert box["height"] <= 44
    vera.page.mouse.move(box["x"] + box["width"] * 22.5 / 24, box["y"] + 20)
    vera.page.mouse.down()
    vera.page.mouse.up()
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    ends = [f"{at:%Y-%m-%dT%H}%3A00%3A00Z" for at in (hour, hour + timedelta(hours=1))]
    vera.page.wait_for_url(f"**/runs/?status=completed&created_after={ends[0]}&created_before={ends[1]}")


# --- Selecting


def test_the_bulk_bar_appears_with_a_selection_and_moves_nothing(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli", viewport=WIDE)
    page = oli.page
    oli.open_board("?status=running")
    button = page.get_by_role("button", name="Cancel the selected runs")
    expect(button).to_be_hidden()
    before = page.evaluate(TOPS)
    page.locator("[data-pick]").nth(3).check()
    expect(button).to_be_in_viewport()
    assert page.evaluate(TOPS) == before
    page.get_by_role("button", name="Select none").click()
    expect(button).to_be_hidden()


def test_on_a_phone_the_box_that_selects_all_has_words(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli", viewport=NARROW)
    oli.open_board("?status=running")
    number = oli.page.locator("[data-pick]").count()
    label = oli.page.locator("#board-head label", has_text=f"Select all on this page ({number})")
    expect(label).to_be_visible()
    label.click()
    expect(oli.page.get_by_text(f"{number} selected on this page")).to_be_visible()
    vera = visit(stack, "vera", viewport=NARROW)
    vera.open_board("?status=running")
    expect(vera.page.locator("#board-head label")).to_have_count(0)


def test_without_a_script_a_selection_over_two_teams_is_kept(stack: Stack, visit: Visit) -> None:
    for slug in ("ops-north", "ops-south"):
        person = ("add_member", slug, "twin@demo.example", "--role", "operator", "--create", "--password-stdin")
        stack.manage(*person, given=stack.password)
    visit(stack, "twin")
    twin = visit(stack, "twin", java_script_enabled=False)
    twin.expected.add(422)
    page = twin.page
    page.goto("/runs/?status=failed")
    for slug in ("ops-north", "ops-south"):
        page.locator(f"tr[data-team='{slug}'] [data-pick]").first.check()
    page.get_by_role("button", name="Start them again in Ops North").click()
    expect(page.get_by_role("heading", name="Choose one team")).to_be_visible()
    expect(page.get_by_text("You selected runs of 2 teams")).to_be_visible()
    expect(page.get_by_role("button", name="Start 1 run of Ops North again…")).to_be_visible()
    page.get_by_role("button", name="Start 1 run of Ops South again…").click()
    page.wait_for_url("**/teams/ops-south/batches/**")
    expect(page.get_by_role("heading", name="Start 1 run again?")).to_be_visible()


def test_a_selection_over_two_teams_is_refused_with_a_sentence(stack: Stack, visit: Visit) -> None:
    password = stack.password
    for slug in ("ops-north", "ops-south"):
        person = ("add_member", slug, "twin@demo.example", "--role", "operator", "--create", "--password-stdin")
        stack.manage(*person, given=password)
    south = stack.keys["DEMO_KEY_SOUTH"]
    arize = type(stack.arize)(stack.arize.url, south)
    arize.add_runs(arize.tasks(limit=1)[0]["id"], status="running")
    stack.manage("refresh", "ops-south")
    twin = visit(stack, "twin")
    page = twin.page
    page.goto("/runs/?status=running")
    page.locator("tr[data-team='ops-north'] [data-pick]").first.check()
    north = page.get_by_role("button", name="Cancel the selected runs of Ops North")
    expect(north).to_be_enabled()
    expect(page.get_by_role("button", name="Cancel the selected runs of Ops South")).to_be_hidden()
    page.locator("tr[data-team='ops-south'] [data-pick]").first.check()
    expect(page.get_by_text("select runs of one team only")).to_be_visible()
    expect(north).to_be_hidden()
    page.locator("tr[data-team='ops-south'] [data-pick]").first.uncheck()
    north.click()
    expect(page.get_by_role("heading", name="Cancel 1 run?")).to_be_visible()


# --- Sizes


@pytest.mark.parametrize("width", [320, 640, 1024, 1920])
def test_no_width_scrolls_sideways(width: int, stack: Stack, visit: Visit) -> None:
    """320 px is also what a window of 1280 px shows at 400 %, 640 px at 200 %."""
    oli = visit(stack, "oli", viewport={"width": width, "height": 800})
    for query in ("?all=1", "?status=failed&q=evaluation&min_duration=1"):
        assert not measured(oli, query)["isWide"], query
    oli.page.locator("#filters-box > summary").click()
    expect(oli.page.get_by_role("button", name="Apply filters")).to_be_visible()
    assert not oli.page.evaluate(MEASURE)["isWide"]
    box = oli.page.locator("#filters").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_the_head_stays_in_sight(stack: Stack, visit: Visit) -> None:
    oli = visit(stack, "oli", viewport=WIDE)
    oli.open_board()
    oli.page.evaluate("scrollTo(0, 900)")
    for name in ("Emergency stop", "Duration"):
        expect(oli.page.get_by_role("link", name=name)).to_be_in_viewport()
    expect(oli.page.get_by_role("button", name="Pause live updates")).to_be_in_viewport()
    head = oli.page.locator("#board-head th").first.bounding_box()
    toolbar = oli.page.locator(".board-toolbar").bounding_box()
    assert head is not None
    assert toolbar is not None
    assert abs(head["y"] - (toolbar["y"] + toolbar["height"])) <= 2, "neither a gap nor an overlap"


# --- Polls


def iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_board_polls_just_after_the_next_reading_is_due(stack: Stack, visit: Visit) -> None:
    """The age of the statuses in each answer -> the seconds until the next poll."""
    expected = [(60.0, 5.0), (3.0, 2.8), (5.4, 1.0), (6.5, 1.0), (0.0, 5.0), (9.0, 5.0)]
    answered: list[float] = []
    waits: list[float] = []

    def answer(route: Route) -> None:
        if answered:
            waits.append(time.monotonic() - answered[-1])
        age = expected[min(len(answered), len(expected) - 1)][0]
        at = datetime.now(UTC) - timedelta(seconds=age)
        route.fulfill(status=304, headers={"X-Statuses-At": iso(at), "X-Searched-At": iso(at)})
        answered.append(time.monotonic())

    vera = visit(stack, "vera")
    vera.page.route("**/runs/table/**", answer)
    vera.open_board()
    deadline = time.monotonic() + 60
    while len(waits) < len(expected) and time.monotonic() < deadline:
        vera.page.wait_for_timeout(100)
    assert waits == pytest.approx([wait for _, wait in expected], abs=0.7), waits
    assert min(waits) > 0.8, "never faster than once a second"
