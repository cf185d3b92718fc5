"""Arize's webhook: a nudge to read a task now, from Arize only, each once."""

import hashlib
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from taskruns.models import ArizeHook, AuditEvent, Credential, Run, Status, Task, Team
from taskruns.models.cache import CacheEntry
from taskruns.sandbox.server import running
from taskruns.services import encryption, mirror, teams
from taskruns.services.channels import hooks
from tests.channels.receivers import receiving
from tests.channels.scene import BY
from tests.clients import ClientOf
from tests.processes import wait_for
from tests.sandbox.caller import Caller
from tests.sandbox.frozen import settings
from tests.stored import dump
from tests.wire import ENDPOINT, wire_run

pytestmark = pytest.mark.django_db
SECRET = "whsec_c2VjcmV0LW9mLWFyaXpl"
EVENT = "online_task.run.failed"


@pytest.fixture
def token(team: Team) -> str:
    made = hooks.make_address(team, by=BY)
    hook = hooks.find_live(team)
    assert hook is not None
    hooks.set_secret(hook, auth="hmac", secret=SECRET, by=BY)
    return made


def call(token: str, body: Any, *, event_id: str = "evt-1", secret: str = SECRET, **changed: str) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    stamp = changed.pop("stamp", str(int(time.time()) + int(changed.pop("shifted", "0"))))
    signature = hmac.new(secret.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest()
    headers = {
        "X-Arize-Webhook-Signature": f"v1={signature}",
        "X-Arize-Webhook-Timestamp": stamp,
        "X-Arize-Webhook-Id": event_id,
        "X-Arize-Webhook-Event": EVENT,
    }
    headers |= {f"X-Arize-Webhook-{name}": value for name, value in changed.items()}
    client = Client(enforce_csrf_checks=True)
    return client.post(f"/hooks/arize/{token}/", raw, content_type="application/json", headers=headers)


def a_body(task: Task) -> dict[str, Any]:
    return {"event": EVENT, "data": {"task": {"id": task.arize_id}, "unknown": [1, None, {"x": "y"}]}}


@pytest.fixture
def calm(task: Task) -> Task:
    """A task that nobody would read for minutes."""
    now = timezone.now()
    Task.objects.filter(pk=task.pk).update(last_run_at=now, runs_read_to=now, runs_read_at=now, caught_up_at=now)
    Credential.objects.update(next_refresh_at=now + timedelta(minutes=5), tasks_read_at=now)
    task.refresh_from_db()
    return task


def is_nudged(task: Task) -> bool:
    task.refresh_from_db()
    return task.runs_read_to is None and Credential.objects.get().next_refresh_at <= timezone.now()


def test_a_signed_call_makes_the_task_be_read_now(token: str, calm: Task):
    before = calm.last_run_at
    answer = call(token, a_body(calm))
    assert answer.status_code == 202
    assert is_nudged(calm)
    assert calm.last_run_at == before, "what Arize said stays"
    assert ArizeHook.objects.get().last_event_at is not None
    assert not answer.cookies
    assert "no-store" in answer["Cache-Control"]


def test_each_id_is_taken_once(token: str, calm: Task):
    assert call(token, a_body(calm)).status_code == 202
    Task.objects.update(runs_read_to=calm.last_run_at)
    assert call(token, a_body(calm)).status_code == 200
    assert not is_nudged(calm)
    assert call(token, a_body(calm) | {"run": 2}, event_id="evt-2").status_code == 202


def test_a_repeated_signature_with_another_id_is_not_taken(token: str, calm: Task):
    """The id is not signed, so whoever has seen a call could change it."""
    stamp = str(int(time.time()))
    assert call(token, a_body(calm), stamp=stamp).status_code == 202
    Task.objects.update(runs_read_to=calm.last_run_at)
    rows = CacheEntry.objects.count()
    for number in range(3):
        assert call(token, a_body(calm), stamp=stamp, event_id=f"other-{number}").status_code == 200
    assert not is_nudged(calm)
    assert CacheEntry.objects.count() == rows, "and writes nothing"


def test_a_call_that_was_too_many_may_come_again(token: str, calm: Task, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooks, "MOST", hooks.Limit("few", 1, timedelta(minutes=1)))
    assert call(token, {"task_id": "another"}).status_code == 202
    stamp = str(int(time.time()))
    assert call(token, a_body(calm), stamp=stamp, event_id="evt-2").status_code == 429
    assert not is_nudged(calm)
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert call(token, a_body(calm), stamp=stamp, event_id="evt-2").status_code == 202
        assert is_nudged(calm)


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": "another-secret-of-someone"},
        {"Signature": "v1=" + "0" * 64},
        {"Signature": ""},
        {"Signature": "v2=" + "0" * 64},
        {"Signature": "v1=é"},
        {"shifted": "-301"},
        {"shifted": "400"},
        {"stamp": "soon"},
        {"stamp": ""},
        {"stamp": "9" * 30},
        {"Timestamp": "1"},
    ],
)
def test_a_call_that_is_not_proven_changes_nothing(changed: dict[str, str], token: str, calm: Task):
    assert call(token, a_body(calm), **changed).status_code == 401
    assert not is_nudged(calm)
    assert call(token, a_body(calm)).status_code == 202, "the control, and its id was not used up"


def test_a_secret_that_cannot_be_decrypted_proves_nothing(token: str, calm: Task):
    ArizeHook.objects.update(ciphertext="damaged")
    assert call(token, a_body(calm)).status_code == 401
    assert not is_nudged(calm)


def test_a_changed_body_is_refused(token: str, calm: Task):
    stamp = str(int(time.time()))
    other = hmac.new(SECRET.encode(), f"{stamp}.".encode() + b'{"task": "other"}', hashlib.sha256).hexdigest()
    assert call(token, a_body(calm), stamp=stamp, Signature=f"v1={other}").status_code == 401
    assert not is_nudged(calm)


def test_secrets_are_encrypted_again_with_the_newest_key(team: Team, calm: Task, settings: Any):
    newest, older = settings.ENCRYPTION_KEYS.items()
    settings.ENCRYPTION_KEYS = dict([older])
    token = hooks.make_address(team, by=BY)
    hooks.set_secret(ArizeHook.objects.get(), auth="hmac", secret=SECRET, by=BY)
    settings.ENCRYPTION_KEYS = dict([newest, older])
    assert encryption.reencrypt(by=BY)["webhooks of Arize"].done == 1
    settings.ENCRYPTION_KEYS = dict([newest])
    assert call(token, a_body(calm)).status_code == 202


def test_an_unknown_address_is_not_found(token: str, calm: Task):
    assert call("no-such-token", a_body(calm)).status_code == 404
    assert call("x" * 5_000, a_body(calm)).status_code == 404
    assert not is_nudged(calm)


def test_a_hook_without_a_secret_refuses_everything(team: Team, calm: Task):
    token = hooks.make_address(team, by=BY)
    assert call(token, a_body(calm), secret="").status_code == 401


def test_only_posts_are_answered(token: str):
    assert Client().get(f"/hooks/arize/{token}/").status_code == 405


def test_another_event_is_ignored(token: str, calm: Task):
    assert call(token, a_body(calm), Event="dataset.created").status_code == 200
    assert not is_nudged(calm)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 50_000, b"null", b'"\\u0000"', b"\xff", b'{"a": 1e999}'])
def test_an_odd_body_reads_the_list_of_tasks(body: bytes, token: str, calm: Task):
    assert call(token, body).status_code == 202
    assert Credential.objects.get().tasks_read_at is None
    calm.refresh_from_db()
    assert calm.runs_read_to is not None


def test_a_task_of_another_team_is_not_touched(token: str, calm: Task, other_team: Team):
    theirs = Task.objects.create(
        team=other_team, endpoint=calm.endpoint, arize_id="theirs", last_run_at=NOW, runs_read_to=NOW
    )
    assert call(token, {"task_id": "theirs"}).status_code == 202
    theirs.refresh_from_db()
    assert theirs.runs_read_to is not None


NOW = timezone.now()


def test_the_bearer_form_compares_the_stored_token(team: Team, token: str, calm: Task):
    hook = hooks.find_live(team)
    assert hook is not None
    hooks.set_secret(hook, auth="bearer", secret="token-of-the-team-123", by=BY)
    for given, status in (("Bearer wrong-token-of-someone", 401), ("", 401), ("Bearer token-of-the-team-123", 202)):
        headers = {"Authorization": given, "X-Arize-Webhook-Timestamp": str(int(time.time()))}
        headers |= {"X-Arize-Webhook-Id": "evt-1", "X-Arize-Webhook-Event": EVENT}
        path, body = f"/hooks/arize/{token}/", json.dumps(a_body(calm))
        answer = Client().post(path, body, content_type="application/json", headers=headers)
        assert answer.status_code == status
    assert call(token, a_body(calm), event_id="evt-2").status_code == 401, "a signature is no token"


def test_a_flood_is_limited(token: str, calm: Task, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooks, "MOST", hooks.Limit("few", 2, timedelta(minutes=1)))
    statuses = [call(token, {"run": number}, event_id=f"evt-{number}").status_code for number in range(4)]
    assert statuses == [202, 202, 429, 429]


def test_the_id_is_remembered_longer_than_its_signature_lasts(token: str, calm: Task):
    with time_machine.travel(timezone.now(), tick=False) as clock:
        stamp = str(int(time.time()) + hooks.WINDOW)
        assert call(token, a_body(calm), stamp=stamp).status_code == 202
        clock.shift(2 * hooks.WINDOW - 1)
        assert call(token, a_body(calm), stamp=stamp).status_code == 200
        assert CacheEntry.objects.exists()
    cache.clear()


def test_neither_token_nor_secret_is_stored_or_recorded(team: Team, token: str, calm: Task):
    call(token, a_body(calm))
    stored = repr(dump())
    assert token not in stored
    assert SECRET not in stored
    assert calm.arize_id in stored, "the control"
    acts = list(AuditEvent.objects.order_by("seq").values_list("event", "target_label"))
    assert acts == [("channel.add", "webhook of Arize"), ("channel.change", "webhook of Arize")]


def test_a_removed_or_archived_hook_is_not_found(team: Team, token: str, calm: Task):
    hook = hooks.find_live(team)
    assert hook is not None
    assert hooks.remove(hook, by=BY)
    assert not hooks.remove(hook, by=BY)
    assert call(token, a_body(calm)).status_code == 404
    again = hooks.make_address(team, by=BY)
    teams.archive(team, by=BY)
    assert call(again, a_body(calm)).status_code == 404
    assert not ArizeHook.objects.exclude(ciphertext="").exists()


def test_the_page_shows_the_address_once(team: Team, mona: Any, client_of: ClientOf):
    client, page = client_of(mona), "/teams/ops-north/channels/arize/"
    made = client.post(page).content.decode()
    address = made.split("http://localhost:8000/hooks/arize/")[1].split("/")[0]
    assert ArizeHook.objects.get().digest == hashlib.sha256(address.encode()).hexdigest()
    assert address not in client.get(page).content.decode()
    assert "no secret stored yet" in client.get(page).content.decode()
    wrong = client.post(f"{page}secret/", {"auth": "hmac", "secret": "short"})
    assert wrong.status_code == 422
    assert "16 to 500" in wrong.content.decode()
    client.post(f"{page}secret/", {"auth": "hmac", "secret": SECRET})
    assert SECRET not in client.get(page).content.decode()
    client.post(f"{page}remove/")
    assert hooks.find_live(team) is None


def test_the_sandbox_sends_what_the_panel_takes(team: Team, token: str, calm: Task, monkeypatch: pytest.MonkeyPatch):
    """Its own signature, made apart from the panel's code."""
    with receiving() as receiver, running(settings()) as sandbox:
        arize = Caller(sandbox.url)
        assert arize.post("/sandbox/webhook", {"url": receiver.url, "secret": SECRET}).status == 201
        task = arize.tasks()[0]
        arize.post("/sandbox/runs", {"task": task["id"], "status": "completed"})
        arize.post("/sandbox/runs", {"task": task["id"], "status": "failed"})
        wait_for(lambda: receiver.received, "the call", within=10)
        (got,) = receiver.received
        assert arize.post("/sandbox/webhook", {"url": "nonsense", "secret": ""}).status == 400
        wait_for(lambda: arize.get("/sandbox/webhook").json["attempts"], "the attempt", within=10)
        assert [one["status"] for one in arize.get("/sandbox/webhook").json["attempts"]] == [200]
    Task.objects.filter(pk=calm.pk).update(arize_id=task["id"])
    answer = Client().post(
        f"/hooks/arize/{token}/", got.body, content_type="application/json", headers=dict(got.headers)
    )
    assert answer.status_code == 202
    assert is_nudged(calm)


def test_a_nudged_task_is_read_in_the_next_round(token: str, calm: Task, arize: Any):
    run = Run(task=calm, arize_id="news")
    seen = {"task_runs": [wire_run(run, "FAILED")], "pagination": {"has_more": False}}
    arize.get(f"{ENDPOINT}/v2/tasks/{calm.arize_id}/runs", json=seen)
    Credential.objects.update(first_contact_done_at=NOW)
    call(token, a_body(calm))
    mirror.refresh(Credential.objects.get().pk)
    assert Run.objects.get(arize_id="news").status == Status.FAILED
