"""The cast and the stage.

vera  looks on at Ops North (viewer); she may see runs and nothing else.
oli   operates Ops North; he cancels runs at 3 a.m.
mona  manages Ops North: keys, members, audit.
otto  manages Ops South; in Ops North he is an outsider for whom nothing exists.
ada   audits the whole site (auditor); she reads everything and changes nothing.
adam  runs the site (site admin); he makes teams, but stops no run.
"""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
import responses
from allauth.account.internal.userkit import user_id_to_str
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.db import connection
from django.test import Client
from django.utils import timezone

from taskruns.audit import Actor, EventType
from taskruns.audit.events import allowed_details
from taskruns.audit.triggers import SEALED_TABLES, seal
from taskruns.models import (
    AuditEvent,
    Cancellation,
    Credential,
    Membership,
    Run,
    SiteRole,
    Status,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.models.runs import ACTIVE
from taskruns.services import factors
from taskruns.services.runs import duration_us

ENDPOINT = "http://arize.test:9999"
CANARY = "ak-canary-7QzN4vXw81LrT0pKe6Yb"
PASSWORD = "correct horse battery"
RECORD = import_module("taskruns.audit.record")  # the package gives the function of that name
NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _plain_http_only_to_the_double(settings: Any) -> None:
    settings.ARIZE_ENDPOINTS = (ENDPOINT,)


@pytest.fixture(autouse=True)
def _runs_of_fixed_dates_are_kept(settings: Any) -> None:
    """The doubles' runs were made on fixed days: they must not grow too old for the mirror."""
    settings.RUN_RETENTION_DAYS = 36_500


@pytest.fixture(autouse=True)
def _no_detail_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production a detail that its event does not list is hidden; here it is a mistake."""

    def refuse(event: EventType, outcome: str, details: dict[str, Any]) -> dict[str, Any]:
        assert not details.keys() - allowed_details(event, outcome), f"{event} does not list all of {sorted(details)}"
        return details

    monkeypatch.setattr(RECORD, "_listed", refuse)


@pytest.fixture
def any_details(_no_detail_is_hidden: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what becomes of details, whatever they are called."""
    monkeypatch.setattr(RECORD, "_listed", lambda _event, _outcome, details: details)


def person(email: str, *, site_role: str = "", **fields: Any) -> User:
    user = User(email=email, site_role=site_role, **fields)
    user.set_password(PASSWORD)
    user.save()
    return user


@pytest.fixture
def team(db: None) -> Team:
    return Team.objects.create(slug="ops-north", name="Ops North")


@pytest.fixture
def other_team(db: None) -> Team:
    return Team.objects.create(slug="ops-south", name="Ops South")


def member(team: Team, email: str, role: TeamRole) -> User:
    user = person(email)
    Membership.objects.create(team=team, user=user, role=role)
    return user


@pytest.fixture
def vera(team: Team) -> User:
    return member(team, "vera@example.com", TeamRole.VIEWER)


@pytest.fixture
def oli(team: Team) -> User:
    return member(team, "oli@example.com", TeamRole.OPERATOR)


@pytest.fixture
def mona(team: Team) -> User:
    return member(team, "mona@example.com", TeamRole.MANAGER)


@pytest.fixture
def otto(other_team: Team) -> User:
    return member(other_team, "otto@example.com", TeamRole.MANAGER)


@pytest.fixture
def ada(db: None) -> User:
    return person("ada@example.com", site_role=SiteRole.AUDITOR)


@pytest.fixture
def adam(db: None) -> User:
    return person("adam@example.com", site_role=SiteRole.ADMIN)


@pytest.fixture
def cast(vera: User, oli: User, mona: User, otto: User, ada: User, adam: User) -> dict[str, User | None]:
    return {
        "anonymous": None,
        "vera": vera,
        "oli": oli,
        "mona": mona,
        "otto": otto,
        "ada": ada,
        "adam": adam,
    }


ClientOf = Callable[[User | None], Client]


@pytest.fixture
def client_of() -> ClientOf:
    def sign_in(user: User | None) -> Client:
        client = Client()
        if user is not None:
            client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
            if factors.has_second(user):
                show_factor(client, user)
        return client

    return sign_in


def show_factor(client: Client, user: User) -> None:
    """As if they had entered a code when they signed in."""
    session = client.session
    session["account_authentication_methods"] = [{"method": "mfa", "type": "totp", "at": time.time()}]
    session["account_authentication_methods_user"] = user_id_to_str(user)
    session.save()


def code_of(secret: str, steps: int = 0) -> str:
    """What the app shows now, or some steps of 30 s from now."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps))


def actor(user: User, role: str = "operator") -> Actor:
    return Actor(type="user", id=str(user.pk), label=user.email, role=role, person=user)


def make_credential(team: Team, *, name: str = "Production", key: str = CANARY, **fields: Any) -> Credential:
    credential = Credential(team=team, name=name, endpoint=ENDPOINT, **fields)
    credential.seal(key)
    credential.save()
    return credential


@pytest.fixture
def credential(team: Team) -> Credential:
    return make_credential(team)


@pytest.fixture
def task(team: Team, credential: Credential) -> Task:
    return Task.objects.create(
        team=team,
        endpoint=ENDPOINT,
        arize_id="T25saW5lVGFzazo0NTpxUndY",
        credential=credential,
        name="Answer relevance evaluation",
        type="template_evaluation",
        space_name="support-bot",
    )


def make_run(task: Task, *, status: Status = Status.RUNNING, **fields: Any) -> Run:
    created = fields.pop("created_at", timezone.now() - timezone.timedelta(minutes=5))
    defaults: dict[str, Any] = {
        "arize_id": f"VGFza1J1bjo{secrets.token_hex(6)}",
        "raw_status": status.value.upper(),
        "rank": int(status in ACTIVE),
        "created_at": created,
        "sorted_at": created,
        "run_started_at": created,
        "observed_at": created,
    }
    columns = defaults | fields
    columns.setdefault("duration_us", duration_us(columns["run_started_at"], columns.get("run_finished_at")))
    return Run.objects.create(team=task.team, task=task, endpoint=task.endpoint, status=status, **columns)


@pytest.fixture
def run(task: Task) -> Run:
    return make_run(task)


def wire_run(run: Run, status: str = "RUNNING", **members: Any) -> dict[str, Any]:
    """A run as Arize spells it on the wire."""
    return {
        "id": run.arize_id,
        "task_id": run.task.arize_id,
        "status": status,
        "run_started_at": "2026-11-23T02:55:00.000Z",
        "run_finished_at": None,
        "data_start_time": None,
        "data_end_time": None,
        "num_successes": 10,
        "num_errors": 1,
        "num_skipped": 0,
        "created_at": "2026-11-23T02:54:59.000Z",
        "created_by_user_id": "VXNlcjoxOm5OYkM=",
    } | members


@pytest.fixture
def arize() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as double:
        yield double


def run_url(run: Run, action: str = "") -> str:
    return f"{ENDPOINT}/v2/task-runs/{run.arize_id}{action}"


def trigger_url(task: Task) -> str:
    return f"{ENDPOINT}/v2/tasks/{task.arize_id}/trigger"


def events(**wanted: Any) -> list[tuple[str, str]]:
    rows = AuditEvent.objects.filter(**wanted).order_by("id")
    return [(row.event, row.outcome) for row in rows]


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """For tests that must really commit (threads, durable transactions over connections).

    The tables are emptied after the test, which the append-only triggers refuse: they are lifted here, and the
    flush's own post_migrate puts them back.
    """
    seal(connection)
    yield
    with connection.cursor() as cursor:
        for table in SEALED_TABLES:
            lift_triggers(cursor, table)


def lift_triggers(cursor: Any, table: str) -> None:
    if connection.vendor == "postgresql":
        cursor.execute(f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}")
        return
    for kind in ("update", "delete", "replace"):
        cursor.execute(f"DROP TRIGGER IF EXISTS {table}_no_{kind}")


__all__ = ["Cancellation", "actor", "events", "make_run"]


def press(client: Client, run: Run, *, htmx: bool = True, **data: str) -> Any:
    """Cancel as a person does it: by the board's button (htmx), or by a plain form."""
    headers = {"HX-Request": "true", "HX-Target": f"run-{run.pk}"} if htmx else {}
    return client.post(f"/teams/{run.team.slug}/runs/{run.pk}/cancel/", data, headers=headers)


def refuse_inserts(table: str, *, unless: str = "1 = 0") -> None:
    """From now on the database refuses new rows of the table, except those for which the condition on NEW holds."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE OR REPLACE FUNCTION refuse_in_test() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$"
            )
            cursor.execute(
                f"CREATE TRIGGER refused_in_test BEFORE INSERT ON {table} FOR EACH ROW "
                f"WHEN (NOT ({unless})) EXECUTE FUNCTION refuse_in_test()"
            )
            return
        cursor.execute(
            f"CREATE TRIGGER refused_in_test BEFORE INSERT ON {table} WHEN NOT ({unless}) "
            "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )


def accept_inserts(table: str) -> None:
    with connection.cursor() as cursor:
        on = f" ON {table}" if connection.vendor == "postgresql" else ""
        cursor.execute(f"DROP TRIGGER refused_in_test{on}")


@pytest.fixture
def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
