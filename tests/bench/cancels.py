"""The panel's overhead for one cancel: two durable transactions and a page, compared with the bare HTTP call."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from django.conf import settings
from django.test import Client

from taskruns.models import Credential, Membership, Run, Team, TeamRole, User
from taskruns.services import mirror
from taskruns.services.credentials.client import connected
from tests.bench.table import Figure, median_ms

KEY = "ak-bench-key-0123456789"
COUNT = 200


@contextmanager
def sandbox(*, tasks: int = 2) -> Iterator[str]:
    command = [sys.executable, "-m", "taskruns.sandbox", "--port", "0", "--tasks", str(tasks), "--speed", "0"]
    environ = os.environ | {"SANDBOX_KEYS": KEY}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    ready = process.stdout.readline()
    try:
        found = re.search(r"http://\S+", ready)
        if found is None:
            raise RuntimeError(ready)
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=10)


def measure() -> list[Figure]:
    with sandbox() as url:
        settings.ARIZE_ENDPOINTS = (url,)
        client, slug = panel(url, slug="bench")
        runs = list(Run.objects.filter(rank=1).order_by("sorted_at"))[: 2 * COUNT]

        def through_the_panel(number: int) -> None:
            path = f"/teams/{slug}/runs/{runs[number].pk}/cancel/"
            headers = {"HX-Request": "true", "HX-Target": f"run-{runs[number].pk}"}
            answer = client.post(path, {"confirmed": "1"}, headers=headers)
            assert answer.status_code == 200, answer.content

        def bare(number: int) -> None:
            path = f"{url}/v2/task-runs/{runs[number].arize_id}/cancel"
            answer = requests.post(path, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
            assert answer.status_code == 200, answer.text

        measured = median_ms(through_the_panel, range(0, 2 * COUNT, 2))
        reference = median_ms(bare, range(1, 2 * COUNT, 2))
        return [
            Figure(
                "one cancel through the panel (median)", measured, "ms", reference, "the bare POST to the same server"
            )
        ]


def panel(url: str, *, slug: str) -> tuple[Client, str]:
    team = Team.objects.create(slug=slug, name=slug.title())
    person = User.objects.create(email=f"{slug}@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.OPERATOR)
    credential = Credential(team=team, name="Bench", endpoint=url)
    credential.encrypt_secret(KEY)
    credential.save()
    tasks = requests.get(f"{url}/v2/tasks", headers={"Authorization": f"Bearer {KEY}"}, timeout=10).json()["tasks"]
    for task in tasks:
        body = {"task": task["id"], "status": "running", "count": COUNT}
        requests.post(f"{url}/sandbox/runs", json=body, timeout=10).raise_for_status()
    # The first contact reads one page of 100 runs per task; later rounds read the rest.
    for task in tasks:
        _mirror_all(credential, url, task["id"])
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client, team.slug


def _mirror_all(credential: Credential, url: str, task_id: str) -> None:
    from django.utils import timezone

    from taskruns.arize.paging import pages
    from taskruns.models import Task
    from taskruns.services.runs.observations import Reading, record_readings

    mirror.refresh(credential.pk, force=True)
    task = Task.objects.get(arize_id=task_id, credential=credential)
    with connected(credential) as arize:
        for page in pages(lambda cursor: arize.list_runs(task_id, cursor=cursor)):
            record_readings([Reading(task, page.items, timezone.now())])
