"""`fill_runs`: generated past runs for benchmarks, by the same rules for any number."""

from datetime import timedelta
from itertools import pairwise

import pytest
from django.core.management import CommandError

from taskruns.models import Run, Task, Team
from tests.runs.past import fill


def test_past_runs_are_30_seconds_apart_in_200_tasks(team: Team, other_team: Team):
    assert "ops-north now has 450 generated runs." in fill("ops-north", 450)
    created = list(Run.objects.filter(team=team).order_by("-sorted_at").values_list("created_at", flat=True))
    assert len(created) == 450
    steps = {newer - older for newer, older in pairwise(created)}
    assert steps == {timedelta(seconds=30)}
    assert Task.objects.filter(team=team, runs__isnull=False).distinct().count() == 200
    assert {run.status for run in Run.objects.all()} <= {"completed", "failed", "cancelled"}
    assert not Run.objects.filter(team=other_team).exists()


def test_every_third_task_name_contains_evaluation(team: Team):
    fill("ops-north", 1)
    assert Task.objects.filter(name__contains="evaluation").count() == 67


def test_a_larger_number_adds_runs_and_the_same_changes_nothing(team: Team):
    fill("ops-north", 20)
    before = set(Run.objects.values_list("pk", flat=True))
    fill("ops-north", 20)
    assert set(Run.objects.values_list("pk", flat=True)) == before
    fill("ops-north", 30)
    assert Run.objects.count() == 30
    assert before < set(Run.objects.values_list("pk", flat=True))


@pytest.mark.parametrize(("team_slug", "runs", "word"), [("nowhere", 1, "nowhere"), ("ops-north", -1, "--runs")])
def test_a_mistake_is_one_line(team: Team, team_slug: str, runs: int, word: str):
    with pytest.raises(CommandError, match=word):
        fill(team_slug, runs)
    assert not Run.objects.exists()
