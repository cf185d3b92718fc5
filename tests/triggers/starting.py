"""Starting a run with the form, and Arize's answers."""

import uuid
from typing import Any

from django.test import Client
from django.urls import reverse

from taskruns.models import Task
from tests.actions import EVALUATION

BODY = "what-arize-wrote-in-its-body"
NEW: dict[str, Any] = {"id": "new-run", "task_id": "T25saW5lVGFzazo0NTpxUndY", "status": "PENDING"}


def url(task: Task) -> str:
    return reverse("task-trigger", args=[task.team.slug, task.pk])


def send(client: Client, task: Task, **changed: str) -> Any:
    return client.post(url(task), EVALUATION | {"operation": str(uuid.uuid4())} | changed)


def problem(status: int, **headers: str) -> dict[str, Any]:
    document = {"status": status, "title": "Refused", "detail": BODY, "request_id": "req_42"}
    return {"status": status, "json": document, "headers": headers}
