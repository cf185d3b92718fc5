"""The page that starts a run of a task. The form itself is separate."""

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from taskruns.models import Task
from taskruns.services.triggers import TriggerResult

from .outcomes import TRIGGER_WORDS
from .values import Message, who_of


@dataclass(frozen=True, slots=True)
class TriggerPage:
    """`operation`: the token of the form. `waiting_url`: where to check for a pending answer. `cannot`: why there is no
    form.
    """

    team: str
    task: str
    space: str
    what: str
    url: str
    runs_url: str
    operation: str
    message: Message | None
    waiting_url: str = ""
    cannot: str = ""


def sentence_of(result: TriggerResult) -> str:
    stop = f"{who_of(result.stop)} pulled it: {result.stop.reason}" if result.stop else ""
    return " ".join(part for part in (TRIGGER_WORDS[result.outcome].sentence, stop, result.explanation) if part)


def trigger_page(
    task: Task, *, team: str, slug: str, what: str, operation: str, message: Message | None, is_waiting: bool
) -> TriggerPage:
    url = reverse("task-trigger", args=[slug, task.pk])
    return TriggerPage(
        team=team,
        task=str(task),
        space=task.space_name,
        what=what,
        url=url,
        runs_url=f"{reverse('board', args=[slug])}?{urlencode({'task': task.arize_id})}",
        operation=operation,
        message=message,
        waiting_url=f"{url}?{urlencode({'operation': operation})}" if is_waiting else "",
        cannot="" if what else _why_not(task),
    )


def _why_not(task: Task) -> str:
    kind = json.loads(task.as_read).get("type")
    if not kind:
        return "Arize has not reported the type of this task yet. Try again once the panel has read the tasks again."
    return (
        f"This panel does not know the task type “{kind}” and cannot start runs of it. "
        "Start them in Arize: they appear on the board automatically."
    )
