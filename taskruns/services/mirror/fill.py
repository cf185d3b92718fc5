"""Writes made-up past runs straight into a team's mirror, to measure how the panel performs when it is full."""

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from taskruns.arize.endpoints import REGIONS
from taskruns.models import ArizeUser, Run, RunSearch, Status, Task, Team
from taskruns.models.runs import share_of
from taskruns.services.runs.observations import learn_usual

TASKS = 200
APART = timedelta(seconds=30)
CHUNK = 5_000
ENDPOINT = REGIONS[0].url
_NAMES = ("Answer relevance evaluation", "Toxicity check", "Prompt experiment")
PEOPLE = 20
_REASONS = (
    "The evaluator's model answered 429: too many requests",
    "Internal server error of the evaluator",
    "Délai dépassé : aucune réponse en 30 s",
    "The prompt template has no column “output”",
    "Prüfung abgebrochen: das Modell ist nicht erreichbar",
    "The experiment's dataset is empty",
)
_ENDS = (Status.COMPLETED, Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED)


def fill_runs(team: Team, *, runs: int) -> Iterator[int]:
    """Fill up to `runs` made-up past runs, one per 30 s into the past, in 200 tasks. Yields the number so far."""
    tasks = _tasks(team)
    _people(team)
    there = Run.objects.filter(team=team, arize_id__startswith="filled-").count()
    newest = Run.objects.filter(team=team, arize_id="filled-0").values_list("sorted_at", flat=True).first()
    begin = newest or timezone.now()
    for start in range(there, runs, CHUNK):
        numbers = range(start, min(start + CHUNK, runs))
        with transaction.atomic():
            made = Run.objects.bulk_create(_run(team, tasks[number % TASKS], number, begin) for number in numbers)
            RunSearch.objects.write(made)
            Team.bump(team.pk)
        yield numbers.stop
    for task in tasks:
        learn_usual(task.pk)
        _mark_longer(task)


def _tasks(team: Team) -> list[Task]:
    """One task name in three contains the word "evaluation"."""
    made = [
        Task(
            team=team,
            endpoint=ENDPOINT,
            arize_id=f"filled-task-{number}",
            name=f"{_NAMES[number % 3]} {number:03}",
            type="template_evaluation",
        )
        for number in range(TASKS)
    ]
    Task.objects.bulk_create(made, ignore_conflicts=True)
    return list(Task.objects.filter(team=team, arize_id__startswith="filled-task-").order_by("arize_id"))


def _people(team: Team) -> None:
    """The people who started the runs."""
    made = [
        ArizeUser(
            team=team,
            endpoint=ENDPOINT,
            arize_id=f"filled-user-{number}",
            name=f"Person {number:02} of Many",
            email=f"person-{number:02}@example.com",
            known=True,
        )
        for number in range(PEOPLE)
    ]
    ArizeUser.objects.bulk_create(made, ignore_conflicts=True)


def _mark_longer(task: Task) -> None:
    task.refresh_from_db(fields=["usual_seconds"])
    if task.usual_limit is not None:
        runs = Run.objects.filter(task=task, rank=0, duration_us__gt=task.usual_limit // timedelta(microseconds=1))
        runs.update(longer_than_usual=True)


def _run(team: Team, task: Task, number: int, begin: datetime) -> Run:
    created = begin - APART * number
    status = _ENDS[(number + number // TASKS) % len(_ENDS)]  # each task has runs of every status
    took = timedelta(seconds=60 + number % 400)
    run = Run(
        id=uuid.uuid4(),
        team=team,
        task=task,
        endpoint=ENDPOINT,
        arize_id=f"filled-{number}",
        status=status,
        raw_status=status.value.upper(),
        created_at=created,
        sorted_at=created,
        run_started_at=created,
        run_finished_at=created + took,
        duration_us=took // timedelta(microseconds=1),
        num_successes=number % 5_000,
        num_errors=number % 7,
        num_skipped=number % 3,
        with_errors=number % 7 > 0,
        longer_than_usual=False,
        pending_long=False,
        observed_at=begin,
        first_seen_at=begin,
        experiment_id=f"filled-experiment-{number // 1_000}" if number % 3 == 2 else None,
        created_by_user_id=f"filled-user-{number % PEOPLE}",
        failure_reason=_REASONS[number // len(_ENDS) % len(_REASONS)] if status == Status.FAILED else None,
        ended_at=created + took,
        error_share=share_of(number % 5_000, number % 7),
    )
    run.attention = run.needs(begin)
    return run
