"""If the log cannot be written, every action fails: nothing changes, nothing is sent to Arize, people see an error."""

import inspect
import pkgutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import pytest
import responses
import time_machine
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.test import Client
from django.utils import timezone
from huey.contrib.djhuey import HUEY

from taskruns import services
from taskruns.arize.triggers import EvaluationTrigger
from taskruns.audit import Actor, EventType, record
from taskruns.encryption import Ring
from taskruns.forms import BoardFilter
from taskruns.models import (
    AuditVerification,
    BatchSource,
    CancelBatch,
    Cancellation,
    Channel,
    Credential,
    EmergencyStop,
    PersonSession,
    Restore,
    SiteRole,
    TeamRole,
    Theme,
    Token,
    TokenRole,
    Trigger,
    User,
)
from taskruns.services import (
    audit,
    backups,
    batches,
    cancellations,
    channels,
    credentials,
    encryption,
    invitations,
    members,
    mirror,
    saved_views,
    stops,
    teams,
    triggers,
)
from taskruns.services.channels import hooks
from taskruns.services.channels.actions import Wanted
from taskruns.services.credentials.client import connected
from taskruns.services.gateway import acts
from taskruns.services.people import accounts, factors, sessions, sso_accounts
from taskruns.services.people.sso_accounts import SsoProfile
from taskruns.services.remote_acts import OutcomeNotWritten
from taskruns.services.runs import export, notes
from taskruns.services.tokens import actions, clock
from taskruns.sso import GroupRole, Provider
from tests.actions import ACTIONS, LATER, NEW_KEY, NEW_PASSWORD
from tests.channels.scene import HOOK
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import actor
from tests.queue_worker import work
from tests.stage import Stage, a_list_to_start_again, a_stop, another_session
from tests.stored import dump
from tests.wire import ENDPOINT, run_url, wire_run

pytestmark = pytest.mark.usefixtures("empty_queue")

LOG = "taskruns_auditevent"
BY = Actor(type="user", id="1", label="mona@example.com", role="manager")
# Claims and timestamps of the mirror, which are not actions.
CLAIMS = {"claimed_until": None, "next_refresh_at": None, "recent_calls": {}, "last_good_at": None, "retry_at": None}


@pytest.fixture
def stage(file_stage: Stage, db: None, arize: responses.RequestsMock) -> Stage:
    return file_stage.for_test(arize)


@pytest.fixture(autouse=True)
def _refusing(stage: Stage) -> None:
    refuse_inserts(LOG)


# --- Every service that a person, a command or the clock can call, after its setup


def a_lost_cancel(stage: Stage, **fields: Any) -> Cancellation:
    long_ago = timezone.now() - timezone.timedelta(minutes=5)
    stage.arize.get(run_url(stage.run), json=wire_run(stage.run, "CANCELLED"))
    return Cancellation.objects.create(
        run=stage.run, person_label="oli@example.com", requested_at=long_ago, posted_at=long_ago, **fields
    )


def a_lost_start(stage: Stage) -> None:
    long_ago = timezone.now() - timezone.timedelta(minutes=5)
    Trigger.objects.create(
        pk=uuid.uuid4(), task=stage.run.task, parameters={}, requested_at=long_ago, posted_at=long_ago
    )


def an_interrupted_test(stage: Stage) -> None:
    """Writes the request's row while the log still accepts rows."""
    accept_inserts(LOG)
    with time_machine.travel(timezone.now() - timezone.timedelta(hours=1)), transaction.atomic():
        record(
            EventType.CREDENTIAL_TEST,
            "requested",
            by=BY,
            team=stage.team,
            credential=stage.credential,
            operation_id=uuid.uuid4(),
        )
    refuse_inserts(LOG)


def an_old_stop(stage: Stage) -> None:
    a_stop(stage)
    EmergencyStop.objects.update(expires_at=timezone.now())


def settle(stage: Stage) -> None:
    with connected(stage.credential) as client:
        cancellations.follow(stage.credential, by=BY).look(client, may_call=lambda: True)


def rejected(stage: Stage) -> None:
    stage.arize.reset()
    stage.arize.get(f"{ENDPOINT}/v2/spaces", status=401)
    stage.arize.get(f"{ENDPOINT}/v2/tasks/{stage.run.task.arize_id}/runs", status=401)
    rejected_before(stage)


def rejected_before(_: Stage) -> None:
    Credential.objects.update(rejected_at=timezone.now() - timezone.timedelta(seconds=10))


def failing(_: Stage) -> None:
    Credential.objects.update(failing_since=timezone.now())


def stranger() -> Actor:
    return Actor(type="anonymous", ip="192.0.2.1")


def vera(stage: Stage) -> User:
    return stage.people["vera"]


def oli(stage: Stage) -> Actor:
    return actor(stage.people["oli"])


def accept(stage: Stage) -> None:
    neo = User.objects.get(email="stranger@example.com")
    invitations.accept_invitation(stage.invitation, person=neo, by=BY)


SERVICES: dict[str, Callable[[Stage], object]] = {
    "audit.start_verification": lambda _: LATER,  # tested below: a job writes the row
    "audit.export": lambda stage: audit.export(stage.team, by=BY, kind="jsonl"),
    "credentials.record_test": lambda _: LATER,  # written by the tests of keys, and by their sweep
    "audit.gets_row": lambda _: LATER,  # counts only
    "audit.record_anonymous": lambda _: audit.record_failed_sign_in("x", "failed", by=stranger()),
    "audit.record_denial": lambda _: LATER,  # a denial stays a denial: see test_denials.py
    "audit.record_failed_sign_in": lambda _: audit.record_failed_sign_in("x", "throttled", by=stranger()),
    "audit.record_reading": lambda stage: audit.record_reading(stage.team, by=BY),
    "audit.record_sign_in": lambda stage: audit.record_sign_in(vera(stage), by=BY),
    "audit.record_sign_out": lambda stage: audit.record_sign_out(vera(stage), by=BY),
    "audit.verify": lambda _: audit.verify(by=BY, progress=lambda _: None, found=print),
    "audit.verify_chains": lambda _: audit.verify(by=BY, chain="site", progress=lambda _: None, found=print),
    "batches.abort": lambda stage: batches.abort(stage.batches["batch-abort"], by=oli(stage)),
    "batches.confirm": lambda stage: batches.confirm(stage.batches["batch-confirm"], reason="why", by=oli(stage)),
    "batches.create_batch": lambda stage: batches.create_batch(
        stage.team, run_ids=[stage.run.pk], reason="why", by=oli(stage), source=BatchSource.STOP
    ),
    "cancellations.cancel": lambda stage: cancellations.cancel(stage.run, by=actor(stage.people["oli"])),
    "cancellations.close": lambda _: cancellations.sweep(by=BY),
    "cancellations.follow": settle,
    "cancellations.sweep": lambda _: cancellations.sweep(),
    "credentials.add": lambda stage: credentials.add(
        stage.team, name="Second", endpoint=ENDPOINT, key=NEW_KEY, expires_on=None, by=BY
    ),
    "backups.acknowledge": lambda _: backups.acknowledge(BACKUP, anchors=None, by=BY),
    "backups.adopt": lambda _: backups.adopt(by=BY),
    "channels.add": lambda stage: channels.add(
        stage.team, name="On call", kind="slack", address=HOOK, wanted=Wanted(("stop.pull",)), by=BY
    ),
    "channels.change": lambda stage: channels.change(stage.channel, name="New", is_on=True, address="", by=BY),
    "channels.make_address": lambda stage: hooks.make_address(stage.team, by=BY),
    "channels.set_secret": lambda stage: hooks.set_secret(stage.hook, auth="hmac", secret="s" * 20, by=BY),
    "channels.mute": lambda stage: channels.mute(stage.channel, until=in_an_hour(), by=BY),
    "channels.remove": lambda stage: channels.remove(stage.channel, by=BY),
    "channels.remove_rule": lambda stage: channels.remove_rule(stage.channel.rules.get(), by=BY),
    "channels.save_rule": lambda stage: channels.save_rule(stage.channel, Wanted(("stop.lift",)), by=BY),
    "channels.send_test": lambda stage: channels.send_test(stage.channel, by=BY),
    "channels.unmute": lambda stage: channels.unmute(stage.channel, by=BY),
    "credentials.mark_failing": lambda stage: credentials.mark_failing(stage.credential, sentence="No.", by=BY),
    "credentials.note_recovered": lambda stage: credentials.note_recovered(stage.credential, by=BY),
    "credentials.note_rejected": lambda stage: credentials.note_rejected(stage.credential, sentence="No.", by=BY),
    "credentials.replace": lambda stage: credentials.replace(stage.credential, key=NEW_KEY, expires_on=None, by=BY),
    "credentials.revoke": lambda stage: credentials.revoke(stage.credential, by=BY),
    "credentials.test": lambda stage: credentials.test(stage.credential, by=BY),
    "credentials.sweep": lambda _: credentials.sweep(by=BY),
    "credentials.try_out": lambda stage: credentials.try_out(
        credentials.draft(stage.team, name="Second", endpoint=ENDPOINT, key=NEW_KEY, expires_on=None), by=BY
    ),
    "credentials.try_again": lambda stage: credentials.try_again(stage.credential, by=BY),
    "credentials.warn_of_expiring": lambda _: credentials.warn_of_expiring(by=BY),
    "encryption.reencrypt": lambda _: encryption.reencrypt(by=BY),
    "runs.add": lambda stage: notes.add(stage.run, text="why", by=oli(stage)),
    "runs.export": lambda stage: export.export(stage.team, BoardFilter(), by=BY),
    "people.add_passkey": lambda stage: factors.add_passkey(vera(stage), name="x", credential={}, by=BY),
    "people.add_totp": lambda stage: factors.add_totp(vera(stage), secret="JBSWY3DPEHPK3PXP", by=BY),
    "people.remove": lambda stage: factors.remove(
        Authenticator.objects.get(type="totp"), stage.people["tom"], must_keep_one=True, session_key="", by=BY
    ),
    "people.renew_recovery_codes": lambda stage: factors.renew_recovery_codes(stage.people["tom"], by=BY),
    "people.create_sso_person": lambda _: sso_accounts.create_sso_person(IDENTITY, by=stranger()),
    "people.connect": lambda stage: sso_accounts.connect(vera(stage), IDENTITY, by=BY),
    "people.disconnect": lambda stage: sso_accounts.disconnect(vera(stage), IDENTITY.provider, by=BY),
    "people.follow": lambda stage: sso_accounts.follow(stage.people["ada"], IDENTITY, by=BY),
    "people.follow_groups": lambda stage: sso_accounts.follow_groups(stage.people["ada"], IDENTITY, by=BY),
    "invitations.accept_with_new_account": lambda stage: invitations.accept_with_new_account(
        stage.invitation, name="Neo", password=NEW_PASSWORD, by=stranger()
    ),
    "invitations.accept_invitation": accept,
    "invitations.create_team": lambda _: invitations.create_team(
        "Ops West", slug=None, manager="mona@example.com", by=BY
    ),
    "invitations.invite": lambda stage: invitations.invite(
        stage.team, email="new@example.com", role=TeamRole.VIEWER, by=BY
    ),
    "invitations.revoke_invitation": lambda stage: invitations.revoke_invitation(stage.invitation, by=BY),
    "members.add": lambda stage: members.add(stage.team, stage.people["ada"], role=TeamRole.VIEWER, by=BY),
    "members.change_role": lambda stage: members.change_role(stage.team, vera(stage), role=TeamRole.OPERATOR, by=BY),
    "members.remove": lambda stage: members.remove(stage.team, vera(stage), by=BY),
    "mirror.refresh": lambda stage: mirror.refresh(stage.credential.pk, by=BY),
    "people.create_person": lambda _: accounts.create_person("neo@example.com", password=NEW_PASSWORD, by=BY),
    "people.insert_person": lambda _: accounts.insert_person(
        accounts.new_person("neo@example.com", password=NEW_PASSWORD), by=BY
    ),
    "people.change_person": lambda stage: accounts.change_person(
        vera(stage), name="Vera", email="vera.new@example.com", by=BY
    ),
    "people.verify_email": lambda stage: accounts.verify_email(vera(stage), by=BY),
    "people.disable_person": lambda stage: accounts.disable_person(vera(stage), by=BY),
    "people.change_profile": lambda stage: accounts.change_profile(
        vera(stage), name="Vera", time_zone="Asia/Tokyo", theme=Theme.DARK, shortcuts=False, by=BY
    ),
    "people.enable_person": lambda stage: accounts.enable_person(vera(stage), by=BY),
    "people.password_changed": lambda stage: accounts.password_changed(vera(stage), session_key="", by=BY),
    "people.grant_site_role": lambda stage: accounts.grant_site_role(vera(stage), role=SiteRole.AUDITOR, by=BY),
    "people.reset_sign_in": lambda stage: accounts.reset_sign_in(vera(stage), password=NEW_PASSWORD, by=BY),
    "saved_views.change_view": lambda stage: saved_views.change_view(
        stage.view, name="Lost ones", shared=False, by=oli(stage)
    ),
    "saved_views.delete_view": lambda stage: saved_views.delete_view(stage.view, by=oli(stage)),
    "saved_views.save_view": lambda stage: saved_views.save_view(
        stage.team, name="Second", query="", shared=True, by=oli(stage)
    ),
    "saved_views.set_own_default": lambda stage: saved_views.set_own_default(stage.view, on=True, by=oli(stage)),
    "saved_views.set_team_default": lambda stage: saved_views.set_team_default(stage.view, on=True, by=oli(stage)),
    "people.end_all": lambda stage: sessions.end_all(vera(stage), by=BY),
    "people.end_surplus": lambda stage: sessions.end_surplus(vera(stage), by=BY),
    "people.end_one": lambda stage: sessions.end_one(vera(stage), digest=stage.session.session_key, by=BY),
    "people.end_others": lambda stage: sessions.end_others(vera(stage), keep="", by=BY),
    "people.end_expired": lambda stage: sessions.end_expired(
        vera(stage), digest=stage.session.session_key, why="idle", by=BY
    ),
    "stops.expire": lambda _: stops.expire(by=BY),
    "stops.lift": lambda stage: stops.lift(stage.team, by=actor(stage.people["oli"])),
    "gateway.cancel": lambda stage: acts.cancel(
        stage.credential, stage.run.arize_id, by=actor(stage.people["oli"]), reason="why"
    ),
    "gateway.trigger": lambda stage: acts.trigger(
        stage.credential, stage.run.task, wanted=EvaluationTrigger(), by=actor(stage.people["oli"])
    ),
    "stops.pull": lambda stage: stops.pull(stage.team, reason="why", left_out=[], by=actor(stage.people["oli"])),
    "teams.archive": lambda stage: teams.archive(stage.team, by=BY),
    "teams.create_team": lambda _: teams.create_team("Ops West", by=BY),
    "teams.rename": lambda stage: teams.rename(stage.team, name="Ops Far North", by=BY),
    "tokens.expire": lambda _: clock.expire(by=BY),
    "tokens.make": lambda stage: actions.make(stage.team, A_TOKEN, owner=stage.people["mona"], by=BY),
    "tokens.record_expired": lambda _: clock.expire(by=BY),
    "tokens.replace": lambda stage: actions.replace(
        stage.script, days=90, overlap=timedelta(0), credential=None, by=actor(stage.people["mona"], "manager")
    ),
    "tokens.revoke": lambda stage: actions.revoke(stage.script, by=BY),
    "tokens.record_refusal": lambda _: LATER,  # it stays refused: see tests/tokens/test_refusals.py
    "triggers.close": lambda _: triggers.sweep(by=BY),
    "triggers.earlier": lambda _: LATER,  # read-only
    "triggers.sweep": lambda _: triggers.sweep(),
    "triggers.trigger": lambda stage: triggers.trigger(
        stage.run.task, operation=uuid.uuid4(), wanted=EvaluationTrigger(), by=actor(stage.people["oli"])
    ),
}
A_TOKEN = actions.Wanted("Nightly", TokenRole.OPERATOR)
BACKUP = cast("backups.Archive", SimpleNamespace(digest="ab" * 32, manifest={"made_at": "2026-11-23T03:00:00.000000Z"}))
IDENTITY = SsoProfile(
    provider=Provider("https://id.example", "id", "secret", group_roles=(GroupRole("ops", "ops-north", "operator"),)),
    subject="subject-1",
    email="nina@example.com",
    is_verified=True,
    name="Nina",
    groups=frozenset({"ops"}),
)


def an_old_ring_key(stage: Stage) -> None:
    old = Ring({1: settings.ENCRYPTION_KEYS[1]}).encrypt(NEW_KEY, owner=str(stage.credential.pk))
    Credential.objects.update(ring_number=old.ring_number, ciphertext=old.token)


def many_sessions(stage: Stage) -> None:
    for _ in range(sessions.MOST_LIVE):
        another_session(vera(stage))


def resting(_: Stage) -> None:
    Restore.objects.create(restored_by="root", backup=BACKUP.digest, backup_made_at=timezone.now())


def an_expired_token(_: Stage) -> None:
    Token.objects.update(expires_at=timezone.now())


def muted(_: Stage) -> None:
    Channel.objects.update(muted_until=in_an_hour())


def in_an_hour() -> datetime:
    return timezone.now() + timezone.timedelta(hours=1)


READY: dict[str, Callable[[Stage], object]] = {
    "backups.adopt": resting,
    "channels.make_address": lambda stage: stage.hook.delete(),
    "channels.unmute": muted,
    "credentials.note_recovered": failing,
    "credentials.note_rejected": rejected_before,
    "credentials.sweep": an_interrupted_test,
    "credentials.try_again": failing,
    "credentials.warn_of_expiring": lambda _: Credential.objects.update(expires_on=timezone.localdate()),
    "encryption.reencrypt": an_old_ring_key,
    "people.disconnect": lambda stage: SocialAccount.objects.create(
        user=vera(stage), provider=IDENTITY.provider.id, uid=IDENTITY.subject
    ),
    "people.end_surplus": many_sessions,
    "people.verify_email": lambda stage: User.objects.filter(pk=vera(stage).pk).update(email_status="invited"),
    "people.enable_person": lambda stage: User.objects.filter(pk=vera(stage).pk).update(is_active=False),
    "cancellations.close": a_lost_cancel,
    "cancellations.sweep": a_lost_cancel,
    "cancellations.follow": lambda stage: a_lost_cancel(stage, stopping_since=timezone.now()),
    "invitations.accept_invitation": lambda _: User.objects.create(email="stranger@example.com"),
    "mirror.refresh": rejected,
    "stops.expire": an_old_stop,
    "stops.lift": a_stop,
    **dict.fromkeys(("tokens.expire", "tokens.record_expired"), an_expired_token),
    "triggers.close": a_lost_start,
    "triggers.sweep": a_lost_start,
}
NO_ACTS_OF_THEIR_OWN = {
    *("audit.gets_row", "audit.start_verification", "audit.record_denial", "credentials.record_test"),
    *("tokens.record_refusal", "triggers.earlier"),
}


def acting() -> set[str]:
    """Every public function in `services` that takes an actor."""
    found = set()
    for module in pkgutil.walk_packages(services.__path__, f"{services.__name__}."):
        noun = module.name.split(".")[2]
        for name, function in inspect.getmembers(import_module(module.name), inspect.isfunction):
            takes = "by" in inspect.signature(function).parameters
            if takes and not name.startswith("_") and function.__module__ == module.name:
                found.add(f"{noun}.{name}")
    return found


def test_every_service_with_an_actor_is_covered():
    assert acting() == set(SERVICES)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - NO_ACTS_OF_THEIR_OWN))
def test_a_service_that_cannot_write_its_row_changes_nothing(name: str, stage: Stage):
    READY.get(name, lambda _: None)(stage)
    before = state(name)
    with pytest.raises((DatabaseError, OutcomeNotWritten)):
        SERVICES[name](stage)
    assert state(name) == before
    assert stage.posts_to_arize == 0


@pytest.mark.parametrize("name", sorted(set(SERVICES) - NO_ACTS_OF_THEIR_OWN))
def test_the_same_service_succeeds_if_the_row_is_written(name: str, stage: Stage):
    """The control: only the log made it fail."""
    READY.get(name, lambda _: None)(stage)
    accept_inserts(LOG)
    before = dump()
    SERVICES[name](stage)
    assert dump() != before


@pytest.mark.parametrize("ready", [a_lost_cancel, a_lost_start])
def test_the_sweep_command_reports_that_it_cannot_write(ready: Callable[[Stage], object], stage: Stage):
    ready(stage)
    with pytest.raises(CommandError, match="The database cannot be used"):
        call_command("sweep")
    accept_inserts(LOG)
    call_command("sweep")


def state(name: str) -> dict[str, Any]:
    """All tables, without the mirror's own bookkeeping: which task or run it read, and when."""
    Cancellation.objects.update(looks=0, look_at=None)
    Credential.objects.update(**CLAIMS | {"next_refresh_at": datetime(2026, 1, 1, tzinfo=UTC)})
    return dump(without=lambda table: name == "mirror.refresh" and table == "taskruns_task")


# --- Over HTTP


@pytest.mark.parametrize("name", ACTIONS)
def test_over_http_it_is_a_503_and_nothing_is_changed(name: str, stage: Stage):
    act = ACTIONS[name]
    client = stage.client(act.who)
    act.prepare(stage)
    data = act.filled(stage, client)
    before = dump()
    answer = act.do(stage, client, data)
    assert answer.status_code == 503
    assert "Nothing was changed and nothing was sent" in answer.content.decode()
    assert dump() == before
    assert stage.posts_to_arize == 0
    accept_inserts(LOG)
    answer = act.do(stage, client)
    assert answer.status_code in {200, 302}, "the control: the same succeeds if the row is written"
    assert dump() != before


def test_an_unrecorded_sign_in_creates_no_session(stage: Stage):
    act = ACTIONS["sign in"]
    client = Client()
    assert act.do(stage, client).status_code == 503
    assert not PersonSession.objects.exclude(pk=stage.session.pk).exists()
    assert client.get("/runs/").status_code == 302
    accept_inserts(LOG)
    assert act.do(stage, client).status_code == 302
    assert client.get("/runs/").status_code == 200


def test_an_unrecorded_password_change_changes_nothing(stage: Stage):
    client = stage.client("vera")
    assert ACTIONS["change the password"].do(stage, client).status_code == 503
    assert client.get("/runs/").status_code == 200
    assert User.objects.get(email="vera@example.com").check_password("correct horse battery")


@pytest.mark.parametrize("name", ["cancel a run", "read the team's log"])
def test_htmx_gets_the_error_too(name: str, stage: Stage):
    act = ACTIONS[name]
    client = stage.client(act.who)
    headers = {"HX-Request": "true", "HX-Target": f"run-{stage.run.pk}"}
    answer = getattr(client, act.method)(act.path(stage), act.filled(stage, client), headers=headers)
    assert (answer.status_code, answer["HX-Reswap"]) == (503, "none")
    assert "nothing was sent" in answer.content.decode()


def test_runs_can_still_be_viewed(stage: Stage):
    for path in ("/runs/", "/teams/ops-north/runs/", f"/teams/ops-north/runs/{stage.run.pk}/"):
        assert stage.client("oli").get(path).status_code == 200


def test_an_unrecorded_verification_ends_and_is_not_clean(stage: Stage):
    client = stage.client("ada")
    assert LATER["verify the log"].do(stage, client).status_code == 302
    with transaction.atomic():
        work()
    assert AuditVerification.objects.get().result == "broken off"
    assert not len(HUEY)
    accept_inserts(LOG)
    LATER["verify the log"].do(stage, client)
    work()
    assert AuditVerification.objects.latest("started_at").result == "clean"


def test_a_worker_that_cannot_write_starts_nothing_until_it_can(stage: Stage):
    a_list_to_start_again(stage)
    batch = stage.batches["batch-confirm"]
    accept_inserts(LOG)
    batches.confirm(batch, reason="why", by=oli(stage))
    refuse_inserts(LOG)
    with pytest.raises(DatabaseError):
        batches.work(batch.pk)
    assert stage.posts_to_arize == 0
    assert list(batch.items.values_list("state", "attempts")) == [("queued", 0)]
    assert not Trigger.objects.exists()
    accept_inserts(LOG)
    CancelBatch.objects.update(claimed_until=None)
    batches.work(batch.pk)
    assert stage.posts_to_arize == 1
    assert list(batch.items.values_list("state", flat=True)) == ["done"]


def test_a_worker_that_cannot_write_sends_nothing_until_it_can(stage: Stage):
    batch = stage.batches["batch-abort"]
    before = list(batch.items.values_list("state", "attempts"))
    with pytest.raises(DatabaseError):
        batches.work(batch.pk)
    assert stage.posts_to_arize == 0
    assert list(batch.items.values_list("state", "attempts")) == before
    assert not Cancellation.objects.exists()
    accept_inserts(LOG)
    CancelBatch.objects.update(claimed_until=None)
    batches.work(batch.pk)
    assert stage.posts_to_arize == 1
    assert list(batch.items.values_list("state", flat=True)) == ["confirmed"]
