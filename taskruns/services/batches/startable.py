"""Which ended runs can be started again, and with which request.

A run is started again with the time range of data that it had. What Arize does not report about a run (the number of
spans, the examples, filters) is known only if it was started here; otherwise Arize's defaults apply.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from taskruns.arize.triggers import LONGEST_WINDOW, EvaluationTrigger, ExperimentTrigger
from taskruns.arize.wire import TaskType
from taskruns.forms.batches import experiment_name
from taskruns.forms.triggers import ProjectForm, TriggerForm, form_for
from taskruns.models import CancelBatch, CancelItem, ItemState, Run, Status, Task, Trigger, TriggerOutcome
from taskruns.models.batches import STARTED
from taskruns.models.runs import true_time

RESTARTABLE = (Status.FAILED, Status.CANCELLED)
_CHUNK = 500  # ids in one statement; some builds of SQLite accept only 999 parameters


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What the person chose for all runs of the batch. `experiment_name`: a pattern."""

    override_evaluations: bool = False
    experiment_name: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"override_evaluations": self.override_evaluations, "experiment_name": self.experiment_name}


def states_of(runs: Sequence[Run]) -> dict[uuid.UUID, ItemState]:
    """The state of each run in a new list. Expects `task` to be loaded."""
    started = started_again([run.pk for run in runs])
    forms = _Forms()
    return {run.pk: _state_of(run, forms.of(run.task), is_started=run.pk in started) for run in runs}


def started_again(run_ids: Sequence[uuid.UUID], *, apart_from: CancelBatch | None = None) -> dict[uuid.UUID, uuid.UUID]:
    """Of these runs, those that a batch has started again, is starting or may have started, with that start."""
    items = CancelItem.objects.filter(trigger__isnull=False, state__in=STARTED)
    items = items if apart_from is None else items.exclude(batch=apart_from)
    chunks = (run_ids[at : at + _CHUNK] for at in range(0, len(run_ids), _CHUNK))
    return {
        run: trigger for chunk in chunks for run, trigger in items.filter(run__in=chunk).values_list("run", "trigger")
    }


def is_experiment(task: Task) -> bool:
    return task.type == TaskType.RUN_EXPERIMENT


def window_of(run: Run) -> tuple[datetime, datetime] | None:
    """The time range of its data. None if Arize reports none that is plausible."""
    start, end = true_time(run.data_start_time), true_time(run.data_end_time)
    return (start, end) if start is not None and end is not None and start < end else None


def bodies_of(items: Sequence[CancelItem], options: StartOptions) -> None:
    """Set the request body of each item. Expects `run.task` to be loaded. Experiments are numbered in this order."""
    now, forms, earlier = timezone.now(), _Forms(), _earlier([item.run_id for item in items])
    experiments = 0
    for item in items:
        experiments += is_experiment(item.run.task)
        known = earlier.get(item.run_id, {})
        if is_experiment(item.run.task):
            item.body = _experiment(item.run, options.experiment_name, known, experiments, now)
        else:
            item.body = _evaluation(item.run, forms.of(item.run.task), options, known)


class _Forms:
    """The kind of form of each task, whose JSON is read once."""

    def __init__(self) -> None:
        self._known: dict[uuid.UUID, type[TriggerForm] | None] = {}

    def of(self, task: Task) -> type[TriggerForm] | None:
        if task.pk not in self._known:
            self._known[task.pk] = form_for(task)
        return self._known[task.pk]


def _state_of(run: Run, form: type[TriggerForm] | None, *, is_started: bool) -> ItemState:
    if is_started:
        return ItemState.ALREADY_STARTED
    if form is None:
        return ItemState.UNKNOWN_TYPE
    if not issubclass(form, ProjectForm):
        return ItemState.QUEUED
    window = window_of(run)
    if window is None:
        return ItemState.NO_WINDOW
    return ItemState.LONG_WINDOW if window[1] - window[0] > LONGEST_WINDOW else ItemState.QUEUED


def _earlier(run_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """The request bodies of those runs that were started here."""
    chunks: Iterable[Sequence[uuid.UUID]] = (run_ids[at : at + _CHUNK] for at in range(0, len(run_ids), _CHUNK))
    done = Trigger.objects.filter(outcome=TriggerOutcome.DONE)
    found = (row for chunk in chunks for row in done.filter(run__in=chunk).values_list("run", "parameters"))
    return dict(found)


def _evaluation(
    run: Run, form: type[TriggerForm] | None, options: StartOptions, known: dict[str, Any]
) -> dict[str, Any]:
    window = window_of(run) if form is not None and issubclass(form, ProjectForm) else None
    made = EvaluationTrigger(window=window, override_evaluations=options.override_evaluations)
    kept = {name: known[name] for name in ("max_spans", "experiment_ids") if name in known}
    return made.as_json() | kept


def _experiment(run: Run, pattern: str, known: dict[str, Any], number: int, now: datetime) -> dict[str, Any]:
    old = str(known.get("experiment_name") or run.task)
    name = experiment_name(pattern, name=old, number=number, now=now)
    return known | ExperimentTrigger(experiment_name=name).as_json()
