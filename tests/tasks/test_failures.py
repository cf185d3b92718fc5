"""Why the runs of a task failed, and the form that starts the failed ones again."""

from typing import Any

import pytest
from django.test import Client

from taskruns.models import Run, Status, Task, User
from taskruns.pages import tasks
from tests.clients import ClientOf
from tests.factories import make_run
from tests.markup import without_bdi


def page(client: Client, task: Task) -> str:
    return without_bdi(client.get(f"/teams/ops-north/tasks/{task.pk}/").content.decode())


def failed(task: Task, reason: str | None) -> Run:
    return make_run(task, status=Status.FAILED, failure_reason=reason)


def section(html: str) -> str:
    return html.split('<section id="task-failures"')[1].split("</section>", maxsplit=1)[0]


def test_reasons_of_one_kind_are_counted_together_most_frequent_first(client: Client, task: Task) -> None:
    failed(task, "no data")
    failed(task, "request 17 of req_9f2c timed out")
    newest = failed(task, "request 23 of req_77aa timed out")
    failed(task, None)
    shown = section(page(client, task))
    assert "The last 4 failed runs" in shown
    assert shown.index("2 runs:") < shown.index("1 run:")
    assert "request 23 of req_77aa timed out" in shown
    assert "request 17" not in shown.split("1 run:")[0]
    assert f'href="/teams/ops-north/runs/{newest.pk}/"' in shown
    assert "Arize gave no reason." in shown


def test_a_task_without_failures_has_no_such_section(client: Client, run: Run) -> None:
    assert "task-failures" not in page(client, run.task)


def test_only_the_newest_runs_and_a_few_reasons_are_looked_at(client: Client, task: Task, monkeypatch: Any) -> None:
    monkeypatch.setattr(tasks, "FAILED_LOOKED_AT", 3)
    monkeypatch.setattr(tasks, "REASONS", 2)
    for letter in "abcd":
        failed(task, f"reason {letter}")
    shown = section(page(client, task))
    assert [f"reason {letter}" in shown for letter in "abcd"] == [False, False, True, True]
    assert "1 more reason, each less frequent" in shown
    monkeypatch.setattr(tasks, "COUNTED", 1)
    assert "The last failed run," in section(page(client, task))


def test_a_long_or_hostile_reason_is_clamped_and_shown_as_text(client: Client, task: Task) -> None:
    failed(task, "<script>alert(1)</script>" + "x" * 5_000)
    shown = section(page(client, task))
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert 'class="clamp"' in shown
    assert "x" * 1_000 not in shown


@pytest.mark.parametrize("who", ["oli", "vera"])
def test_people_who_may_start_runs_can_start_the_failed_ones_again(
    who: str, task: Task, oli: User, vera: User, client_of: ClientOf
) -> None:
    failed(task, "no data")
    shown = section(page(client_of({"oli": oli, "vera": vera}[who]), task))
    fields = [
        '<form id="task-again" method="post" action="/teams/ops-north/batches/"',
        '<input type="hidden" name="kind" value="trigger">',
        '<input type="hidden" name="match" value="all">',
        f'<input type="hidden" name="task" value="{task.arize_id}">',
        '<input type="hidden" name="status" value="failed">',
    ]
    assert [field in shown for field in fields] == [who == "oli"] * len(fields)
