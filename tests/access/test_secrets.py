"""Use canary keys in every operation on keys, then search for them everywhere."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests
import responses
import structlog
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from taskruns.models import AuditEvent, Cancellation, Credential, Task, Team, User
from taskruns.pages.teams import link_of
from taskruns.services import cancellations, mirror
from taskruns.services.credentials.client import connected
from tests.factories import CANARY, actor, make_run
from tests.secret_search import Witness, database_dump, found, queue_dump
from tests.wire import ENDPOINT, run_url, wire_run

HTMX = {"HX-Request": "true"}

SECOND = "ak-second-3HgWq9ZkT5mXb2VcRn7Ld"
BY_COMMAND = "ak-third-Jx8Yp4QsUe6Nf1MzWv0Kt"
KEYS = (CANARY, SECOND, BY_COMMAND)
SPACES, TASKS = f"{ENDPOINT}/v2/spaces", f"{ENDPOINT}/v2/tasks"


def echo(status: int, kind: str = "text/html") -> dict[str, Any]:
    """A careless server: its answer repeats the key, complete and shortened."""

    def answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        text = f"{request.headers['Authorization']} {request.headers['Authorization'][7:22]}..."
        problem = json.dumps({"title": text, "detail": text, "request_id": text, "status": status})
        headers = {"X-Request-ID": text, "Content-Type": kind, "Location": f"http://evil.example/{text}"}
        return status, headers, problem if "json" in kind else f"<html>{text}</html>"

    return {"callback": answer}


ANSWERS: dict[str, dict[str, Any]] = {
    "200": {"json": {"spaces": [], "pagination": {}}},
    "200 with HTML that echoes": echo(200),
    "302 that echoes": echo(302),
    **{f"{status} that echoes": echo(status, "application/problem+json") for status in (400, 401, 403, 404, 409, 429)},
    **{f"{status} with HTML that echoes": echo(status) for status in (401, 500, 503)},
    "connect time-out": {"body": requests.ConnectTimeout(f"{CANARY} {SECOND}")},
    "read time-out": {"body": requests.ReadTimeout(f"{CANARY} {SECOND}")},
    "cut": {"body": requests.ConnectionError(f"{CANARY} {SECOND}")},
    "bad header": {"body": ValueError(f"Invalid header value b'Bearer {CANARY} {SECOND}'")},
}


@pytest.fixture
def witness(team: Team, mona: User) -> Witness:
    client = Witness()
    client.force_login(mona, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All logs at level DEBUG, including those of libraries."""
    names = ["", "taskruns", "django", "django.request", "django_structlog", "urllib3", "requests", "huey"]
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)
    logging.getLogger("huey").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("huey").removeHandler(caplog.handler)


class Story:
    """Every operation on keys, by people and by jobs, with an Arize that misbehaves."""

    def __init__(self, team: Team, mona: User, client: Witness, arize: responses.RequestsMock) -> None:
        self.team, self.mona, self.client, self.arize = team, mona, client, arize
        self.output = io.StringIO()

    def answers(self, answer: dict[str, Any]) -> None:
        self.arize.reset()
        for url in (SPACES, TASKS):
            self.answer("GET", url, answer)

    def answer(self, method: str, url: str, answer: dict[str, Any]) -> None:
        add = self.arize.add_callback if "callback" in answer else self.arize.add
        add(method, url, **answer)

    def key(self) -> Credential:
        return Credential.objects.get(name="Canary")

    def url(self, name: str) -> str:
        return reverse(name, args=["ops-north", self.key().pk])

    def add(self) -> None:
        new = reverse("credential-new", args=["ops-north"])
        fields = {"name": "Canary", "endpoint": ENDPOINT, "key": CANARY, "expires_on": ""}
        self.answers(ANSWERS["200"])
        for mistake in (
            {"name": ""},
            {"endpoint": "http://evil.example"},
            {"expires_on": "soon"},
            {"key": f"{CANARY} x"},
        ):
            assert self.client.post(new, fields | mistake).status_code == 422
        assert self.client.post(new, fields).status_code == 302
        assert self.client.post(new, fields).status_code == 422  # the name is taken

    def test(self) -> None:
        for answer in ANSWERS.values():
            self.answers(answer)
            assert self.client.post(self.url("credential-test"), follow=True).status_code == 200

    def replace(self) -> None:
        self.answers(ANSWERS["401 that echoes"])
        url = self.url("credential-replace")
        assert self.client.post(url, {"key": SECOND, "expires_on": "soon"}).status_code == 422
        assert self.client.post(url, {"key": SECOND}).status_code == 422, "it does not work"
        assert self.client.post(url, {"key": SECOND, "anyway": "1"}).status_code == 302

    def refresh(self) -> None:
        for answer in ANSWERS.values():
            self.answers(answer)
            mirror.refresh(self.key().pk, force=True)

    def cancel(self) -> None:
        task = Task.objects.create(team=self.team, endpoint=ENDPOINT, arize_id="task", credential=self.key())
        for number, answer in enumerate(ANSWERS.values()):
            run = make_run(task, arize_id=f"run-{number}")
            self.answers(answer)
            self.answer("POST", run_url(run, "/cancel"), answer)
            self.answer("GET", run_url(run), answer if number % 2 else {"json": wire_run(run)})
            url = reverse("run-cancel", args=["ops-north", run.pk])
            assert self.client.post(url, {"confirmed": "1"}, headers=HTMX).status_code in {200, 409, 429, 502}
            self.client.get(reverse("run", args=["ops-north", run.pk]))
        Cancellation.objects.filter(outcome="").update(posted_at=timezone.now() - timedelta(hours=1))
        cancellations.sweep()

    def commands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(2):
            monkeypatch.setattr("sys.stdin", io.StringIO(f"{BY_COMMAND}\n"))
            self.run("add_credential", "ops-north", "Shell", "--endpoint", ENDPOINT, "--key-stdin")
        self.answers(ANSWERS["500 with HTML that echoes"])
        for command in (["refresh", "ops-north"], ["sweep"], ["export_audit", "ops-north"], ["export_audit", "site"]):
            self.run(*command)

    def run(self, *command: str) -> None:
        try:
            call_command(*command, stdout=self.output, stderr=self.output)
        except Exception as error:  # noqa: BLE001 - its text is searched
            self.output.write(repr(error))

    def look_around(self) -> None:
        for name in ("board", "board-table", "credentials", "credential-new", "members", "audit", "team-settings"):
            assert self.client.get(reverse(name, args=["ops-north"])).status_code == 200
        for name in ("credential-replace", "credential-revoke"):
            assert self.client.get(self.url(name)).status_code == 200


@pytest.fixture
def story(team: Team, mona: User, witness: Witness, arize: responses.RequestsMock) -> Story:
    return Story(team, mona, witness, arize)


@pytest.mark.slow
def test_no_piece_of_a_key_leaks(story: Story, logs: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    story.add()
    story.test()
    story.replace()
    story.refresh()
    story.cancel()
    story.commands(monkeypatch)
    story.look_around()
    places = {
        "HTML, headers and cookies": story.client.seen,
        "logs": [logs.text, *(str(vars(record)) for record in logs.records)],
        "output of commands": [story.output.getvalue()],
        "database": [database_dump()],
        "queue": [queue_dump()],
    }
    assert story.key().decrypt_secret() == SECOND  # control: the keys were really used
    assert AuditEvent.objects.filter(event="run.cancel").count() > len(ANSWERS)
    for key in KEYS:
        assert {where: found(key, texts) for where, texts in places.items()} == {where: [] for where in places}
    for where, texts in places.items():
        assert any(len(text) > 100 for text in texts), where


def test_search_finds_leaked_keys(story: Story, logs: pytest.LogCaptureFixture):
    """The control of the test above: it finds the visible hint, and a key leaked on purpose in each place."""
    story.add()
    page = story.client.get(reverse("credentials", args=["ops-north"])).content.decode()
    assert CANARY[-4:] in page
    assert CANARY[-4:] in database_dump()
    structlog.get_logger("taskruns.tests").warning("careless", authorization=f"Bearer {CANARY}")
    assert found(CANARY, [logs.text])
    Team.objects.update(name=f"careless {CANARY[5:15]}")
    story.client.get(reverse("board", args=["ops-north"]))
    assert found(CANARY, story.client.seen)
    assert found(CANARY, [database_dump()])
    from taskruns import jobs

    jobs.refresh_credential(CANARY)
    assert found(CANARY, [queue_dump()])
    jobs.refresh_credential.huey.flush()


def test_revoked_key_is_deleted(story: Story):
    story.add()
    ciphertext = story.key().ciphertext
    assert ciphertext in database_dump()
    assert story.client.post(story.url("credential-revoke")).status_code == 302
    assert ciphertext not in database_dump()


def test_no_repr_contains_a_key(credential: Credential, settings: Any):
    from taskruns.encryption import Ring
    from taskruns.forms.credentials import CredentialForm
    from taskruns.outbound import Proxy
    from taskruns.services.channels.addresses import Destination
    from taskruns.sso import Provider

    form = CredentialForm({"name": "x", "endpoint": ENDPOINT, "key": CANARY})
    assert form.is_valid()
    ring = Ring(settings.ENCRYPTION_KEYS)
    with connected(credential) as client:
        objects = [credential, form, form["key"], form.fields, ring, ring.encrypt(CANARY, owner="x")]
        objects += [vars(credential), client, client._bearer, client._reads, vars(client)]
        objects += [Destination(url=CANARY, signing=CANARY, routing=CANARY), Proxy("http://proxy:3128", CANARY)]
        objects += [Provider("https://id.example.com", "panel", CANARY)]
        assert not found(CANARY, [str(thing) + repr(thing) for thing in objects])
        assert found(CANARY, [client._bearer.secret])
    for ring_key in settings.ENCRYPTION_KEYS.values():
        assert not found(ring_key, [repr(ring)])


def test_password_is_never_rendered(team: Team, mona: User, witness: Witness):
    from taskruns.models import TeamRole
    from taskruns.services import invitations

    password = "Zq8-canary-horse-W4xT"
    link = link_of(invitations.invite(team, email="new@example.com", role=TeamRole.VIEWER, by=actor(mona)))
    stranger = Witness()
    path = link.removeprefix("http://localhost:8000")
    assert stranger.post(path, {"password1": password, "password2": f"{password}?"}).status_code == 422
    assert stranger.post("/accounts/login/", {"login": mona.email, "password": password}).status_code == 200
    assert not found(password, [*stranger.seen, database_dump()])
