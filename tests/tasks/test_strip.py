"""The strip of a task's latest runs: shape is the status, height is the duration, and the same in words."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.test import Client

from taskruns.models import Run, Status, Task
from taskruns.pages.strip import LAST, Strip, kind_of, strip_of
from tests.factories import make_run
from tests.runs.past import past
from tests.runs.readings import START


def drawn(task: Task, **options: Any) -> Strip:
    return strip_of(task, list(Run.objects.filter(task=task)), slug="ops-north", **options)


def bars(path: str) -> list[tuple[int, float]]:
    """The position and height of each bar."""
    return [(int(x) - 2, float(height)) for x, height in re.findall(r"M(\d+) 50v-([\d.]+)h6", path)]


def test_the_strip_is_also_described_in_words(task: Task):
    past(task, *[300] * 25)
    past(task, 300, num_errors=2)
    past(task, *[300] * 3, status=Status.FAILED)
    past(task, 300, status=Status.CANCELLED)
    task.usual_seconds = 300
    strip = drawn(task)
    counts = "25 completed, 1 completed with errors, 3 failed, 1 cancelled"
    assert strip.summary == f"Last 30 runs: {counts}; usually 5 min"
    assert len(strip.marks) == sum(key.count for key in strip.keys) == LAST


def test_each_outcome_has_its_own_colour_and_shape(task: Task):
    for status in Status:
        make_run(task, status=status)
    make_run(task, status=Status.COMPLETED, num_errors=1)
    keys = {key.kind: key.shape for key in drawn(task).keys}
    assert set(keys) == {"completed", "errors", "failed", "cancelled", "active", "other"}
    hollow = keys.pop("cancelled")
    assert len(set(keys.values())) == len(keys)
    # The same bar; the style sheet does not fill it.
    assert hollow == keys["completed"]


def test_every_status_has_a_kind():
    assert {kind_of(Run(status=status)) for status in Status} == {"completed", "failed", "cancelled", "active", "other"}


def test_newest_runs_are_on_the_right_and_bars_show_the_duration(task: Task):
    newest = past(task, 100, 50, 25)
    strip = drawn(task)
    assert bars(strip.keys[0].path) == [(0, 9.5), (10, 19.0), (20, 38.0)]
    assert [mark.url.split("/")[-2] for mark in strip.marks] == [str(run.pk) for run in reversed(newest)]
    assert [mark.x for mark in strip.marks] == [0, 10, 20]
    assert strip.longest == "1 min 40 s"


def test_only_the_latest_runs_are_drawn(task: Task):
    past(task, *[60] * (LAST + 5), 9_000)
    strip = drawn(task)
    assert (len(strip.marks), strip.longest, strip.width) == (LAST, "1 min", 10 * LAST)


def test_an_old_active_run_is_drawn_in_its_place(task: Task):
    make_run(task, created_at=START - timedelta(hours=2, minutes=30))
    past(task, 60, 60, 60)
    assert [key.kind for key in drawn(task).keys] == ["completed", "active"]
    assert drawn(task).keys[1].path.startswith("M12 ")


def test_a_strip_with_one_run_or_none_says_so(task: Task):
    assert drawn(task) == Strip(
        url=f"/teams/ops-north/tasks/{task.pk}/strip/", title="No runs yet", keys=(), marks=(), usual="", usual_path="",
        longest="", here="", width=0, pixels=0,
    )  # fmt: skip
    past(task, 60)
    assert drawn(task).summary == "One run so far: 1 completed"


def test_runs_without_times_or_duration_are_visible(task: Task):
    past(task, 0, 0)
    past(task, 60, run_started_at=None)
    past(task, 60, run_started_at=datetime(1, 1, 1, tzinfo=UTC))
    past(task, -60)
    strip = drawn(task)
    assert [height for _, height in bars(strip.keys[0].path)] == [3.0] * 5
    assert strip.marks[0].title.startswith("COMPLETED, ")


def test_a_usual_duration_above_the_drawing_has_no_line(task: Task):
    past(task, 100, 100)
    task.usual_seconds = 50
    assert drawn(task).usual_path == "M0 31.0h20"
    task.usual_seconds = 5_000
    assert (drawn(task).usual_path, drawn(task).usual) == ("", "usually 83 min")


def test_a_run_is_marked_on_its_own_page(task: Task):
    runs = past(task, 100, 100)
    assert drawn(task).here == ""
    assert drawn(task, here=runs[0]).here.startswith("M15 ")


def test_the_fragment_links_each_bar_and_adds_no_tab_stops(client: Client, task: Task):
    runs = past(task, 321, 60, status=Status.FAILED)
    html = client.get(f"/teams/ops-north/tasks/{task.pk}/strip/", headers={"HX-Request": "true"}).content.decode()
    assert html.lstrip().startswith('<section id="task-strip"')
    for run in runs:
        assert f'<a href="/teams/ops-north/runs/{run.pk}/" tabindex="-1">' in html
    assert "<title>FAILED, 5 min 21 s, 2026-11-23 02:00:00 UTC</title>" in html
    assert html.count('<path class="mark-failed"') == 2
    assert "2 failed" in html


def test_the_fragment_opened_as_a_page_redirects_to_the_task(client: Client, task: Task):
    answer = client.get(f"/teams/ops-north/tasks/{task.pk}/strip/")
    assert (answer.status_code, answer.get("Location")) == (302, f"/teams/ops-north/tasks/{task.pk}/")
    assert "HX-Request" in answer["Vary"]
