"""No action without an audit row: every URL and method that changes something, and every such command.

A new URL or command that is not listed here fails these tests.
"""

import io
import re
import sys
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import responses
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from taskruns import jobs
from taskruns.audit import CATALOGUE, Actor, EventType, record
from taskruns.audit.events import allowed_details
from taskruns.encryption import Ring
from taskruns.models import (
    AuditEvent,
    Cancellation,
    Credential,
    EmergencyStop,
    Membership,
    Outcome,
    Run,
    Token,
    Trigger,
    User,
)
from taskruns.services import mirror
from tests.actions import ABSENT, ACTIONS, LATER, NEW_KEY, NEW_PASSWORD, READ_ONLY, HttpAction
from tests.paths import ROOT
from tests.queue_worker import work
from tests.stage import Stage, a_stop
from tests.stored import dump
from tests.urlconf import url_names
from tests.wire import ENDPOINT, run_url, wire_run

pytestmark = pytest.mark.usefixtures("empty_queue")

Rows = list[tuple[str, str]]


@pytest.fixture
def stage(file_stage: Stage, db: None, arize: responses.RequestsMock) -> Stage:
    return file_stage.for_test(arize)


def rows_since(last: int) -> Rows:
    return list(AuditEvent.objects.filter(pk__gt=last).order_by("pk").values_list("event", "outcome"))


def last_row() -> int:
    return AuditEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def test_every_url_is_covered():
    covered = {act.url for act in (*ACTIONS.values(), *LATER.values())}
    assert url_names() == sorted(covered | READ_ONLY | ABSENT)
    assert not covered & READ_ONLY


@pytest.mark.parametrize("name", ACTIONS | LATER)
def test_every_http_action_writes_its_rows_with_its_person(name: str, stage: Stage):
    act: HttpAction = (ACTIONS | LATER)[name]
    act.prepare(stage)
    client = stage.client(act.who)
    data = act.filled(stage, client)
    last = last_row()
    answer = act.do(stage, client, data)
    assert answer.status_code in {200, 302}
    work()
    assert rows_since(last) == list(act.events)
    for row in AuditEvent.objects.filter(pk__gt=last):
        assert row.request_id
        assert row.ip == "127.0.0.1"
        if act.who:
            assert row.actor_label == f"{act.who}@example.com"
            assert row.actor_role or act.is_everyones


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_without_permission_writes_a_denial(name: str, stage: Stage):
    act = ACTIONS[name]
    if not act.who or act.is_everyones:
        return  # open to everyone, or to everyone with an account
    Membership.objects.all().update(role="viewer")
    User.objects.update(site_role="")
    act.prepare(stage)
    last = last_row()
    with transaction.atomic():
        assert act.do(stage).status_code in {403, 404}
    ((event, outcome),) = rows_since(last)
    assert outcome == "denied"
    assert event == "access.denied" or event.split(".")[0] in {
        "run",
        "credential",
        "channel",
        "token",
        "member",
        "team",
        "audit",
        "invitation",
        "stop",
        "view",
        "person",
        "auth",
    }


@pytest.mark.parametrize("url", sorted(ABSENT))
def test_unused_urls_do_nothing(url: str, stage: Stage):
    """A POST to a URL that exists elsewhere is refused and recorded."""
    tallies = {"taskruns_anonymoustally", "taskruns_persontally"}
    its_rows = {"taskruns_personsession", "taskruns_auditevent", "taskruns_auditchain"} | tallies
    path, before, last = HttpAction(url, "vera", ()).path(stage), dump(without=its_rows.__contains__), last_row()
    for client in (stage.client(""), stage.client("vera")):
        assert {client.get(path).status_code, client.post(path).status_code} <= {302, 401, 404, 405}
    assert dump(without=its_rows.__contains__) == before
    assert set(rows_since(last)) <= {("access.denied", "denied"), ("token.refused", "denied")}


@pytest.mark.parametrize("url", sorted(READ_ONLY))
def test_read_only_pages_refuse_post(url: str, stage: Stage):
    User.objects.filter(pk=stage.people["mona"].pk).update(site_role="admin")
    path = HttpAction(url, "mona", ()).path(stage)
    before = dump()
    assert stage.client("mona").post(path).status_code == 405
    after = dump(without=lambda table: table == "taskruns_personsession")
    assert after == {table: rows for table, rows in before.items() if table in after}
    last = last_row()
    assert stage.client("mona").get(path).status_code in {200, 302}
    assert rows_since(last) == []


# --- The catalogue's details


def test_listed_details_exist_and_none_is_a_secret():
    for event, outcomes in CATALOGUE.items():
        for outcome in outcomes:
            for name in allowed_details(event, outcome):
                assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
                assert not re.search("key$|secret|token|password|cookie|body|ciphertext", name)
    assert allowed_details(EventType.TEAM_CREATE, "denied") > allowed_details(EventType.TEAM_CREATE, "done")


def test_an_unlisted_detail_is_dropped_and_the_action_succeeds(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.undo()  # the tests are stricter
    details = {"role": "viewer", "password": "correct horse", "why": "it was no denial"}
    row = record(EventType.MEMBER_ADD, "done", by=Actor.command(), team=stage.team, details=details)
    assert row.details == {"role": "viewer"}
    assert "audit_detail_hidden" in caplog.text
    assert "correct horse" not in caplog.text


# --- Commands


@dataclass(frozen=True)
class Call:
    """`events`: the events of the call. `prepare`: sets up what it needs."""

    arguments: tuple[str, ...]
    events: Rows
    stdin: str = ""
    prepare: Callable[[Stage], object] = lambda _: None
    exits: bool = False


def a_lost_cancel(stage: Stage) -> None:
    long_ago = timezone.now() - timezone.timedelta(minutes=5)
    Cancellation.objects.create(
        run=stage.run, person_label="oli@example.com", requested_at=long_ago, posted_at=long_ago
    )
    stage.arize.get(run_url(stage.run), json=wire_run(stage.run, "CANCELLED"))


def a_lost_start(stage: Stage) -> None:
    long_ago = timezone.now() - timezone.timedelta(minutes=5)
    Trigger.objects.create(
        pk=uuid.uuid4(), task=stage.run.task, parameters={}, requested_at=long_ago, posted_at=long_ago
    )


def a_rejected_key(stage: Stage) -> None:
    stage.arize.reset()
    for path in ("spaces", "tasks"):
        stage.arize.get(f"{ENDPOINT}/v2/{path}", status=401)
    stage.arize.get(run_url(stage.run), status=401)
    # The second look is what counts.
    Credential.objects.update(rejected_at=timezone.now() - timezone.timedelta(seconds=10))


def a_failing_key(_: Stage) -> None:
    Credential.objects.update(failing_since=timezone.now(), retry_at=timezone.now())


def a_stopping_run(stage: Stage) -> None:
    a_lost_cancel(stage)
    Cancellation.objects.update(stopping_since=timezone.now())


def an_old_ring_key(stage: Stage) -> None:
    old = Ring({1: settings.ENCRYPTION_KEYS[1]}).encrypt(NEW_KEY, owner=str(stage.credential.pk))
    Credential.objects.update(ring_number=old.ring_number, ciphertext=old.token)


COMMANDS: dict[str, list[Call]] = {
    "create_team": [Call(("create_team", "Ops West"), [("team.create", "done")])],
    "add_member": [
        Call(
            ("add_member", "ops-north", "neo@example.com", "--role", "viewer", "--create", "--password-stdin"),
            [("person.create", "done"), ("member.add", "done")],
            stdin=f"{NEW_PASSWORD}\n",
        ),
        Call(("add_member", "ops-north", "vera@example.com", "--role", "operator"), [("member.change_role", "done")]),
    ],
    "grant_site_role": [Call(("grant_site_role", "vera@example.com", "auditor"), [("person.grant", "done")])],
    "reset_sign_in": [
        Call(
            ("reset_sign_in", "vera@example.com", "--password-stdin"),
            [("person.reset", "done")],
            stdin=f"{NEW_PASSWORD}\n",
        ),
        Call(
            ("reset_sign_in", "tom@example.com", "--password-stdin", "--drop-mfa"),
            [("person.reset", "done")],
            stdin=f"{NEW_PASSWORD}\n",
        ),
    ],
    "disable_person": [Call(("disable_person", "vera@example.com"), [("person.disable", "done")])],
    "add_credential": [
        Call(
            ("add_credential", "ops-north", "Second", "--endpoint", ENDPOINT, "--key-stdin"),
            [("credential.add", "done")],
            stdin=f"{NEW_KEY}\n",
        ),
        Call(
            ("add_credential", "ops-north", "Production", "--endpoint", ENDPOINT, "--key-stdin", "--replace"),
            [("credential.replace", "done")],
            stdin=f"{NEW_KEY}\n",
        ),
    ],
    # Reading from Arize is not recorded, but what it finds may be.
    "refresh": [
        Call(("refresh", "ops-north"), [("credential.failing", "done")], prepare=a_rejected_key, exits=True),
        Call(("refresh", "ops-north"), [("credential.recovered", "done")], prepare=a_failing_key),
        Call(("refresh", "ops-north"), [("run.cancel", "confirmed")], prepare=a_stopping_run),
    ],
    "sweep": [
        Call(("sweep",), [("run.cancel", "confirmed")], prepare=a_lost_cancel),
        Call(("sweep",), [("run.trigger", "unknown")], prepare=a_lost_start),
    ],
    "reencrypt_credentials": [
        Call(("reencrypt_credentials",), [("encryption.reencrypt", "done")], prepare=an_old_ring_key),
    ],
    "add_channel": [
        Call(
            ("add_channel", "ops-north", "On call", "--kind", "webhook", "--address-stdin"),
            [("channel.add", "done")],
            stdin="https://alerts.example.com/hook\n",
        )
    ],
    "create_token": [Call(("create_token", "ops-north", "Nightly", "--role", "operator"), [("token.create", "done")])],
    "test_channel": [Call(("test_channel", "ops-north", "Room"), [("channel.test", "done")], exits=True)],
    "verify_audit": [Call(("verify_audit", "--chain", "ops-north"), [("audit.verify", "ok")])],
    "export_audit": [Call(("export_audit", "ops-north"), [("audit.export", "done")])],
    "revoke_credential": [Call(("revoke_credential", "ops-north", "Production"), [("credential.revoke", "done")])],
    # Tests with databases of their own: backups/test_restore.py, backups/test_move.py.
    "backup": [],
    "restore": [],
    "move_to": [],
    # These only read: commands/test_lists.py, commands/test_doctor.py.
    "doctor": [],
    "list_teams": [],
    "list_people": [],
    "list_credentials": [],
    "send_test_mail": [],
    "demo_setup": [],  # commands/test_commands.py: it makes the teams itself
    "migrate": [],  # Django's own, as another role
    "run_huey": [],  # the worker: its jobs record what they do
    "fill_runs": [],  # generated runs for benchmarks, in the mirror only: not in the catalogue
}
FOLDER = ROOT / "taskruns/management/commands"


def test_every_command_is_covered():
    assert sorted(COMMANDS) == sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


CALLS = [(name, call) for name, calls in COMMANDS.items() for call in calls]


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[f"{name} {number}" for number, (name, _) in enumerate(CALLS)])
def test_every_command_writes_its_rows_as_a_command(
    name: str, call: Call, stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    call.prepare(stage)
    monkeypatch.setattr(sys, "stdin", io.StringIO(call.stdin))
    last = last_row()
    run(call)
    assert rows_since(last) == call.events
    rows = AuditEvent.objects.filter(pk__gt=last)
    assert {row.actor_type for row in rows} == {"command"}
    assert all(row.actor_label and row.request_id for row in rows)


def run(call: Call) -> None:
    with pytest.raises(CommandError) if call.exits else nullcontext():
        call_command(*call.arguments, stdout=io.StringIO())


def test_fill_runs_changes_only_the_mirror(stage: Stage):
    def is_mirror(table: str) -> bool:
        names = ("run", "runsearch", "task", "team", "arizeuser")
        return table in {f"taskruns_{name}" for name in names} or table.startswith("taskruns_run_fts")

    before = dump(without=is_mirror)
    call_command("fill_runs", "ops-north", "--runs", "3", stdout=io.StringIO())
    assert dump(without=is_mirror) == before
    assert Run.objects.count() == 4


# --- The clock and Arize


def test_a_failing_key_is_recorded_by_the_job(stage: Stage):
    a_rejected_key(stage)
    last = last_row()
    mirror.refresh(stage.credential.pk)
    assert rows_since(last) == [("credential.failing", "done")]
    row = AuditEvent.objects.latest("pk")
    assert (row.actor_type, row.actor_label, row.credential_id) == ("job", "mirror", stage.credential.pk)
    mirror.refresh(stage.credential.pk, force=True)
    assert rows_since(last) == [("credential.failing", "done")], "once is enough"


def test_a_recovered_key_is_recorded_by_the_job(stage: Stage):
    a_failing_key(stage)
    last = last_row()
    mirror.refresh(stage.credential.pk)
    assert rows_since(last) == [("credential.recovered", "done")]
    assert AuditEvent.objects.latest("pk").actor_label == "mirror"


def test_a_cancel_closed_by_the_worker_is_recorded_by_the_job(stage: Stage):
    a_lost_cancel(stage)
    last = last_row()
    jobs.sweep()
    work()
    assert rows_since(last) == [("run.cancel", "confirmed")]
    assert AuditEvent.objects.latest("pk").actor_type == "job"
    assert Cancellation.objects.get().outcome == Outcome.CONFIRMED


def test_an_expired_stop_is_recorded_by_the_job(stage: Stage):
    a_stop(stage)
    EmergencyStop.objects.update(expires_at=timezone.now())
    last = last_row()
    jobs.look_after_stops()
    work()
    assert rows_since(last) == [("stop.expire", "done")]
    assert AuditEvent.objects.latest("pk").actor_type == "job"


def test_an_expiring_key_is_recorded_by_the_job(stage: Stage):
    Credential.objects.update(expires_on=timezone.localdate() + timezone.timedelta(days=3))
    last = last_row()
    jobs.look_after_keys()
    work()
    assert rows_since(last) == [("credential.expiring", "done")]
    assert AuditEvent.objects.latest("pk").actor_label == "clock"


def test_an_expired_token_is_recorded_by_the_job(stage: Stage):
    Token.objects.update(expires_at=timezone.now())
    last = last_row()
    jobs.look_after_tokens()
    work()
    assert rows_since(last) == [("token.expire", "done")]
    assert AuditEvent.objects.latest("pk").actor_label == "clock"


def test_every_event_is_covered():
    covered = {event for act in (*ACTIONS.values(), *LATER.values()) for event, _ in act.events}
    covered |= {event for _, call in CALLS for event, _ in call.events} | {"access.denied"}
    covered |= {"credential.expiring", "stop.expire", "token.expire"}  # recorded by the clock, tested above
    covered |= {"system.restored"}  # backups/test_restore.py
    covered |= {"token.refused"}  # tokens/test_refusals.py
    covered |= {"notify.given_up"}  # channels/test_sending.py
    assert covered == {event.value for event in EventType} == set(map(str, CATALOGUE))
