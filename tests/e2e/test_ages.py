"""The two ages above an open board: they advance while nothing changes, and never claim a run that is not shown."""

import time
from datetime import UTC, datetime
from typing import Any

from playwright.sync_api import Page, expect

from tests.e2e.stack import SPARE, Stack
from tests.e2e.visitors import Visit

TABLE = "/runs/table/"
HEADERS = {"statuses": "x-statuses-at", "searched": "x-searched-at"}
ROOT = "#board-table[data-searched-at]"
READ = """() => {
  const root = document.querySelector("#board-table");
  const shown = (name) => root.querySelector(`time[data-${name}]`)?.dateTime;
  return {
    statuses: [root.dataset.statusesAt, shown("statuses")],
    searched: [root.dataset.searchedAt, shown("searched")],
    text: document.querySelector("#board-bar").innerText,
    isTouched: document.querySelector("tr[data-run-id]").touched === true,
  };
}"""


def next_poll(page: Page) -> Any:
    """The next answer of a poll, after the page has read it."""
    with page.expect_response(lambda answer: TABLE in answer.url) as seen:
        pass
    answer = seen.value
    answer.finished()
    page.wait_for_function("() => new Promise((done) => setTimeout(() => done(true), 50))")
    return answer


def at(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def test_the_ages_advance_while_the_rows_stay_untouched(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    expect(vera.page.locator(ROOT)).to_be_attached(timeout=60_000)
    vera.page.evaluate("document.querySelector('tr[data-run-id]').touched = true")
    unchanged: list[dict[str, str]] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (len(unchanged) > 2 and advanced(unchanged)):
        answer = next_poll(vera.page)
        board = vera.page.evaluate(READ)
        if answer.status != 304:
            unchanged.clear()
            vera.page.evaluate("document.querySelector('tr[data-run-id]').touched = true")
            continue
        named = {name: answer.headers[header] for name, header in HEADERS.items()}
        assert {name: board[name] for name in named} == {name: [value] * 2 for name, value in named.items()}
        assert board["isTouched"], "a 304 leaves the rows alone"
        assert all(at(value) <= time.time() for value in named.values())
        unchanged.append(named)
    assert advanced(unchanged), unchanged
    assert "statuses " in board["text"]
    assert "all tasks searched for new runs " in board["text"]


def advanced(answers: list[dict[str, str]]) -> bool:
    return all(at(answers[0][name]) < at(answers[-1][name]) for name in HEADERS) if answers else False


def test_a_board_shows_each_run_that_its_age_claims(stack: Stack, visit: Visit) -> None:
    """A run of a task that had no active one: only the search finds it."""
    task = stack.arize.tasks(limit=100)[SPARE + 3]["id"]
    vera = visit(stack, "vera")
    vera.open_board(f"?task={task}")
    expect(vera.page.locator(ROOT)).to_be_attached(timeout=60_000)
    (added,) = stack.arize.add_runs(task, status="running", count=1)
    asked = datetime.now(UTC).timestamp() * 1_000
    claims = "(at) => Date.parse(document.querySelector('#board-table').dataset.searchedAt) >= at"
    seen = f"""([at, id]) => ({claims})(at) && {{ found: [...document.querySelectorAll("tr[data-run-id]")]
      .some((row) => row.dataset.runId === id) }}"""
    answer = vera.page.wait_for_function(seen, arg=[asked, added["id"]], polling=20, timeout=120_000)
    assert answer.json_value() == {"found": True}
    expect(vera.row(added["id"])).to_be_visible()


def test_a_paused_board_grows_older(stack: Stack, visit: Visit) -> None:
    vera = visit(stack, "vera")
    vera.open_board()
    expect(vera.page.locator(ROOT)).to_be_attached(timeout=60_000)
    next_poll(vera.page)
    vera.page.get_by_role("button", name="Pause live updates").click()
    before = vera.page.evaluate(READ)
    vera.page.wait_for_timeout(7_000)
    after = vera.page.evaluate(READ)
    assert {name: after[name] for name in HEADERS} == {name: before[name] for name in HEADERS}
    assert after["text"] != before["text"], "the relative time goes on"
