"""An Arize with the old format, and processes that fail. Each test restarts what it stopped."""

from playwright.sync_api import expect

from tests.e2e.stack import Stack
from tests.e2e.visitors import Visit
from tests.processes import wait_for

_LET_CLAIMS_LAPSE = """
from django.utils import timezone
from taskruns.models import Credential
assert Credential.objects.exclude(claimed_until=None).update(claimed_until=timezone.now()), "nothing was claimed"
"""


def test_runs_in_lower_case_are_shown_and_cancelled_alike(old_stack: Stack, visit: Visit) -> None:
    run_id, oli = old_stack.take_run(), visit(old_stack, "oli")
    assert old_stack.arize.run(run_id)["status"] == "running", "the sandbox does not speak lower case"
    oli.open_board()
    expect(oli.row(run_id)).to_contain_text("RUNNING")
    oli.cancel(run_id)
    expect(oli.row(run_id)).to_contain_text("CANCELLED")
    assert len(old_stack.cancels_received(run_id)) == 1


def test_a_killed_worker_loses_nothing(old_stack: Stack, visit: Visit) -> None:
    run_id, vera = old_stack.take_run(), visit(old_stack, "vera")
    vera.open_board()
    old_stack.arize.post("/sandbox/faults", {"method": "GET", "path": "/v2/tasks", "latency_ms": 1_500, "count": 3})
    wait_for(lambda: _reading(old_stack), "a round in progress", within=30)
    old_stack.kill("worker")
    old_stack.arize.call("DELETE", "/sandbox/faults")
    assert old_stack.arize.call("PATCH", f"/sandbox/runs/{run_id}", body={"status": "completed"}).status == 200
    expect(vera.row(run_id)).to_have_attribute("data-status", "running")
    # The claim of the killed worker expires after 40 s. The test does not wait for that.
    old_stack.manage("shell", "-c", _LET_CLAIMS_LAPSE)
    old_stack.start("worker")
    expect(vera.row(run_id)).to_have_attribute("data-status", "completed", timeout=30_000)


def _reading(stack: Stack) -> bool:
    listed = stack.arize.get("/sandbox/requests", method="GET", path="/v2/tasks").json["requests"]
    return any(entry["in_flight"] for entry in listed)


def test_with_arize_down_the_board_answers_and_says_why_it_is_old(old_stack: Stack, visit: Visit) -> None:
    vera = visit(old_stack, "vera")
    old_stack.end("sandbox")
    try:
        vera.open_board()
        expect(vera.page.locator("tr[data-run-id]").first).to_be_visible()
        expect(vera.page.locator("#board-warnings .notice")).to_contain_text("Arize", timeout=30_000)
    finally:
        old_stack.start("sandbox")
    expect(vera.page.locator("#board-warnings .notice")).to_have_count(0, timeout=40_000)
