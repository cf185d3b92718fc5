"""What tests make and say: people, keys, tasks, runs, Arize's answers, and the questions they ask of the log."""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from allauth.account.internal.userkit import user_id_to_str
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.db import connection
from django.test import Client
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import (
    AuditEvent,
    Credential,
    Membership,
    Run,
    Status,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.models.runs import ACTIVE
from taskruns.services.runs.observations import duration_us

ENDPOINT = "http://arize.test:9999"
CANARY = "ak-canary-7QzN4vXw81LrT0pKe6Yb"
PASSWORD = "correct horse battery"
NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def person(email: str, *, site_role: str = "", **fields: Any) -> User:
    user = User(email=email, site_role=site_role, **fields)
    user.set_password(PASSWORD)
    user.save()
    return user


def member(team: Team, email: str, role: TeamRole) -> User:
    user = person(email)
    Membership.objects.create(team=team, user=user, role=role)
    return user


ClientOf = Callable[[User | None], Client]


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


def run_url(run: Run, action: str = "") -> str:
    return f"{ENDPOINT}/v2/task-runs/{run.arize_id}{action}"


def trigger_url(task: Task) -> str:
    return f"{ENDPOINT}/v2/tasks/{task.arize_id}/trigger"


def events(**wanted: Any) -> list[tuple[str, str]]:
    rows = AuditEvent.objects.filter(**wanted).order_by("id")
    return [(row.event, row.outcome) for row in rows]


def lift_triggers(cursor: Any, table: str) -> None:
    if connection.vendor == "postgresql":
        cursor.execute(f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}")
        return
    for kind in ("update", "delete", "replace"):
        cursor.execute(f"DROP TRIGGER IF EXISTS {table}_no_{kind}")


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
