"""What Arize is asked for when a run is started: one kind for each kind of task, because it refuses a mixture (400)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

DEFAULT_SPANS = 10_000  # Arize's own
LONGEST_WINDOW = timedelta(days=30)
LONGEST_EXPERIMENT_NAME = 255


@dataclass(frozen=True, slots=True)
class EvaluationTrigger:
    """A run of an evaluation task. `window`: of data, for tasks on a project only, always with both ends, because the
    server fills in a missing one in ways of its own. `experiment_ids`: for tasks on a dataset only.
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
    """A run of an experiment task. Of `example_ids` and `max_examples` Arize takes one at most."""

    experiment_name: str
    dataset_version_id: str = ""
    example_ids: tuple[str, ...] = ()
    max_examples: int | None = None
    query_filter: str = ""
    tracing_metadata: Mapping[str, str] = field(default_factory=dict)
    evaluation_task_ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Without what was left open: Arize's own defaults hold then."""
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


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
