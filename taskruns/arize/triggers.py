"""The request body that starts a run: one class per kind of task, because Arize rejects a mixture (400)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

DEFAULT_SPANS = 10_000  # Arize's own default
LONGEST_WINDOW = timedelta(days=30)
NOT_IN_A_NAME = re.compile(r'["\\]')  # characters that no name of an experiment may have
LONGEST_EXPERIMENT_NAME = 255


@dataclass(frozen=True, slots=True)
class EvaluationTrigger:
    """Start a run of an evaluation task.

    `window`: start and end of the data, only for tasks on a project. Both ends are always sent, because Arize picks
    its own value for a missing one. `experiment_ids`: only for tasks on a dataset.
    """

    window: tuple[datetime, datetime] | None = None
    max_spans: int = DEFAULT_SPANS
    override_evaluations: bool = False
    experiment_ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"max_spans": self.max_spans, "override_evaluations": self.override_evaluations}
        if self.window is not None:
            body |= {"data_start_time": _iso(self.window[0]), "data_end_time": _iso(self.window[1])}
        if self.experiment_ids:
            body["experiment_ids"] = list(self.experiment_ids)
        return body


@dataclass(frozen=True, slots=True)
class ExperimentTrigger:
    """Start a run of an experiment task. Arize accepts `example_ids` or `max_examples`, not both."""

    experiment_name: str
    dataset_version_id: str = ""
    example_ids: tuple[str, ...] = ()
    max_examples: int | None = None
    query_filter: str = ""
    tracing_metadata: Mapping[str, str] = field(default_factory=dict)
    evaluation_task_ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Omit empty fields, so that Arize's own defaults apply."""
        body = {
            "experiment_name": self.experiment_name,
            "dataset_version_id": self.dataset_version_id,
            "example_ids": list(self.example_ids),
            "max_examples": self.max_examples,
            "query_filter": self.query_filter,
            "tracing_metadata": dict(self.tracing_metadata),
            "evaluation_task_ids": list(self.evaluation_task_ids),
        }
        return {name: value for name, value in body.items() if value}


@dataclass(frozen=True, slots=True)
class PreparedTrigger:
    """A request body that was made and stored before, of either kind."""

    body: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return dict(self.body)


Wanted = EvaluationTrigger | ExperimentTrigger | PreparedTrigger


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
