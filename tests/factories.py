"""Create rows for tests: people, members, credentials and runs."""

import secrets
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import (
    Channel,
    Credential,
    Membership,
    Rule,
    Run,
    RunSearch,
    Status,
    Task,
    Team,
    TeamRole,
    Token,
    TokenRole,
    User,
)
from taskruns.models.runs import ACTIVE, share_of
from taskruns.services.channels.addresses import Destination
from taskruns.services.runs.observations import duration_us
from taskruns.services.tokens.secret import HINT, digest_of, new_secret
from tests.wire import ENDPOINT

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


def actor(user: User, role: str = "operator") -> Actor:
    return Actor(type="user", id=str(user.pk), label=user.email, role=role, person=user)


def make_credential(team: Team, *, name: str = "Production", key: str = CANARY, **fields: Any) -> Credential:
    credential = Credential(team=team, name=name, endpoint=ENDPOINT, **fields)
    credential.encrypt_secret(key)
    credential.save()
    return credential


def make_channel(team: Team, *, name: str = "Room") -> Channel:
    """A Slack channel that is told about the emergency stop, without an audit row."""
    channel = Channel(team=team, name=name, kind="slack", created_by_label="mona@example.com")
    channel.encrypt_secret(Destination(url="https://alerts.example.com/hook/very-secret").as_json())
    channel.save()
    Rule.objects.create(channel=channel, events=["stop.pull"])
    return channel


def make_token(
    team: Team, *, name: str = "Airflow", maker: User | None = None, role: TokenRole = TokenRole.OPERATOR, **fields: Any
) -> tuple[Token, str]:
    """A token and its secret, without an audit row. Without a maker: made by a command."""
    secret = fields.pop("secret", "") or new_secret()
    label = maker.email if maker else "command, root"
    defaults: dict[str, Any] = {
        "maker_label": label,
        "made_by_command": maker is None,
        "expires_at": timezone.now() + timezone.timedelta(days=90),
        "digest": digest_of(secret),
        "hint": secret[-HINT:],
    }
    return Token.objects.create(team=team, name=name, maker=maker, role=role, **defaults | fields), secret


def make_task(team: Team, credential: Credential) -> Task:
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
    run = unsaved_run(task, status=status, **fields)
    run.save(force_insert=True)
    RunSearch.objects.write([run])
    return run


def unsaved_run(task: Task, *, status: Status = Status.RUNNING, **fields: Any) -> Run:
    """For tests that write many at once, with `bulk_create`."""
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
    run = Run(team=task.team, task=task, endpoint=task.endpoint, status=status, **columns)
    run.ended_at = columns.get("ended_at", run.end(run.sorted_at))
    run.error_share = columns.get("error_share", share_of(run.num_successes, run.num_errors))
    return run
