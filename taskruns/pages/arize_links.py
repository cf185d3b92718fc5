"""Links into Arize's own pages, where their form is known: project, dataset and experiment, in Arize's own regions.

Source: Arize's official link tools, August 2026. There is no known link to a task or a run.
"""

import json
from typing import Any
from urllib.parse import quote

from taskruns.arize.endpoints import REGIONS
from taskruns.models import Run, Task

from .values import Link

_APPS = {region.url: region.url.replace("https://api.", "https://app.", 1) for region in REGIONS}


def run_links(run: Run) -> tuple[Link, ...]:
    """Expects `run.task.credential` to be loaded; its spaces name the organization, unless the server is an old one."""
    key = run.task.credential
    spaces: list[dict[str, Any]] = key.spaces if key else []
    named = (space.get("organization_id", "") for space in spaces if space["id"] == run.task.space_id)
    return arize_links(run.task, run, next(named, ""), run.endpoint)


def arize_links(task: Task, run: Run, organization_id: str, endpoint: str) -> tuple[Link, ...]:
    """What there is to open; empty when an id on the way is not known or the pages of this endpoint are not."""
    app = _APPS.get(endpoint)
    if not (app and _is_segment(organization_id) and _is_segment(task.space_id)):
        return ()
    space = f"{app}/organizations/{_segment(organization_id)}/spaces/{_segment(task.space_id)}"
    as_read = json.loads(task.as_read)
    project, dataset = _id(as_read, "project_id"), _id(as_read, "dataset_id")
    links = []
    if project:
        links.append(Link("project", f"{space}/projects/{_segment(project)}?selectedTab=llmTracing"))
    if dataset:
        links.append(Link("dataset", f"{space}/datasets/{_segment(dataset)}?selectedTab=examples"))
    if dataset and run.experiment_id:
        compare = f"{space}/datasets/{_segment(dataset)}/experiments/compare"
        links.append(Link("experiment", f"{compare}?queryFilterA=&experimentId={_segment(run.experiment_id)}"))
    return tuple(links)


def _id(as_read: object, name: str) -> str:
    value = as_read.get(name) if isinstance(as_read, dict) else None
    return value if isinstance(value, str) and _is_segment(value) else ""


def _is_segment(id_: str) -> bool:
    """Browsers resolve `.` and `..` away, however they are written."""
    return id_ not in {"", ".", ".."}


def _segment(id_: str) -> str:
    return quote(id_, safe="")
