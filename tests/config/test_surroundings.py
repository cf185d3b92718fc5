"""Variables for the surroundings of a panel: poolers, balancers, other panels on the host, images, log collectors."""

import json
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from huey.contrib.djhuey import HUEY

from config import environment, logs
from config.static_files import Storage
from taskruns import __version__, jobs
from taskruns.audit import Actor, EventType, record
from taskruns.management.commands import migrate
from taskruns.models import AuditEvent, Team, User
from taskruns.verifier import event_hash
from tests import forked_command
from tests.clients import ClientOf
from tests.config.deployment import GOOD
from tests.stored import events

UNUSED = Path("unused")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with only these environment variables."""

    def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ENV_FILE": "", "DATA_DIR": str(tmp_path / "var")}
        return forked_command.run(command, env=env | variables)

    return run


# --- Databases


def test_postgresql_keeps_no_cursor_outside_of_a_transaction(monkeypatch: pytest.MonkeyPatch):
    """A pooler gives each transaction another connection of the database."""
    monkeypatch.setenv("DATABASE_URL", "postgres://me@pooler:6432/panel")
    found = environment.database(UNUSED)
    assert found["DISABLE_SERVER_SIDE_CURSORS"] is True
    assert (found["CONN_HEALTH_CHECKS"], found["CONN_MAX_AGE"]) == (True, None)
    assert "prepare_threshold" not in found.get("OPTIONS", {}), "Django prepares no statement unless told to"


def test_the_queue_on_postgresql_prepares_no_statement(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUEUE_URL", "postgres://me@pooler:6432/queue")
    assert environment.queue(UNUSED)["connection"]["prepare_threshold"] is None


@pytest.mark.parametrize("odd", ["a#b", "a?b", "a%41b", "a b", "a:b@c"])
def test_a_data_directory_may_have_any_name(odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / odd))
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("QUEUE_URL")
    data_dir = environment.data_dir()
    database, queue = environment.database(data_dir / "a.sqlite3"), environment.queue(data_dir / "b.sqlite3")
    assert (database["NAME"], queue["filename"]) == (
        str(tmp_path / odd / "a.sqlite3"),
        str(tmp_path / odd / "b.sqlite3"),
    )


@pytest.mark.parametrize("name", ["DATABASE_URL", "QUEUE_URL"])
@pytest.mark.parametrize("mark", ["#", "?"])
def test_a_url_that_would_be_cut_off_is_refused(name: str, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = {"DATABASE_URL": environment.database, "QUEUE_URL": environment.queue}[name]
    monkeypatch.setenv(name, f"sqlite:///{tmp_path}/a{mark}b.sqlite3")
    with pytest.raises(ImproperlyConfigured, match=rf"^{name} must be .* Percent-encode special characters"):
        read(UNUSED)
    monkeypatch.setenv(name, f"sqlite:///{tmp_path}/a{'%23' if mark == '#' else '%3F'}b.sqlite3")
    assert f"{tmp_path}/a{mark}b.sqlite3" in read(UNUSED).values()


@pytest.mark.parametrize("given", ["", "?connect_timeout=2&keepalives_idle=9"])
def test_a_database_that_vanishes_holds_no_thread_for_long(given: str, monkeypatch: pytest.MonkeyPatch):
    """Without limits, a thread waits until the kernel gives up: 15 minutes or more."""
    url = f"postgres://me@db/panel{given}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("QUEUE_URL", url)
    options = environment.database(Path("unused"))["OPTIONS"]
    assert options.keys() >= {"connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_count"}
    queue = environment.queue(Path("unused"))["connection"]
    assert ("connect_timeout" in queue, "tcp_user_timeout" in queue) == (not given, True)
    if given:
        assert (int(options["connect_timeout"]), int(options["keepalives_idle"])) == (2, 9)


def test_migrations_run_as_the_owner(monkeypatch: pytest.MonkeyPatch, settings: Any, db: None):
    monkeypatch.setenv("MIGRATE_DATABASE_URL", "postgres://owner:p%23w@direct:5432/panel?sslmode=require")
    settings.MIGRATE_DATABASE = environment.owner_database()
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(connection, "vendor", "postgresql")
    monkeypatch.setattr(connection, "close", lambda: None)
    monkeypatch.setattr(migrate.MigrateCommand, "handle", lambda *_, **__: seen.append(dict(connection.settings_dict)))
    before = dict(connection.settings_dict)
    call_command("migrate", verbosity=0)
    (during,) = seen
    assert (during["USER"], during["PASSWORD"], during["HOST"], during["PORT"]) == ("owner", "p#w", "direct", 5432)
    assert (during["NAME"], during["OPTIONS"]["sslmode"]) == ("panel", "require")
    assert connection.settings_dict == before, "what runs afterwards in this process uses the panel's own role"


def test_an_owner_without_postgresql_is_refused(settings: Any, monkeypatch: pytest.MonkeyPatch):
    settings.MIGRATE_DATABASE = {"NAME": "panel"}
    monkeypatch.setattr(connection, "vendor", "sqlite")
    with pytest.raises(ImproperlyConfigured, match=r"^MIGRATE_DATABASE_URL is for PostgreSQL only"):
        call_command("migrate", verbosity=0)


@pytest.mark.parametrize("value", ["nonsense", "sqlite:////tmp/s3kr3t", "postgres://u:s3kr3t@h", "mysql://u@h/d"])
def test_a_malformed_owner_stops_the_start(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIGRATE_DATABASE_URL", value)
    with pytest.raises(ImproperlyConfigured, match=r"^MIGRATE_DATABASE_URL must be postgres") as refused:
        environment.owner_database()
    assert "s3kr3t" not in str(refused.value)
    monkeypatch.setenv("MIGRATE_DATABASE_URL", "")
    assert environment.owner_database() is None


# --- Other panels on the host


@pytest.mark.parametrize(
    ("site", "prefix", "session", "csrf"),
    [
        ("", "", "sessionid", "csrftoken"),
        ("http://localhost:8000", "", "sessionid", "csrftoken"),
        ("http://localhost:8001", "", "8001-sessionid", "csrftoken"),
        ("http://127.0.0.1", "", "80-sessionid", "csrftoken"),
        ("http://localhost:8001", "west", "west-sessionid", "west-csrftoken"),
        ("https://panel.example.com", "", "__Host-sessionid", "__Host-csrftoken"),
        ("https://panel.example.com:8443", "west_2", "__Host-west_2-sessionid", "__Host-west_2-csrftoken"),
    ],
)
def test_two_panels_on_one_host_have_their_own_cookies(
    site: str, prefix: str, session: str, csrf: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SITE_URL", site)
    monkeypatch.setenv("COOKIE_PREFIX", prefix)
    found = environment.cookies(environment.site())
    assert (found.session, found.csrf) == (session, csrf)
    start = session.removesuffix("sessionid")
    assert (found.device, found.messages) == (f"{start}device", f"{start}messages")


@pytest.mark.parametrize("value", ["a b", "a;b", "a=b", "-a", "__Host-a", "ü", "x" * 41])
def test_a_prefix_that_is_no_part_of_a_cookie_name_is_refused(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COOKIE_PREFIX", value)
    with pytest.raises(ImproperlyConfigured, match=r"^COOKIE_PREFIX must be "):
        environment.cookies(environment.site())


# --- Images and editors


@pytest.mark.slow
def test_static_files_are_collected_without_secrets(
    start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
):
    root = tmp_path / "image" / "static"
    ended = start(["manage.py", "collectstatic", "--no-input", "--verbosity", "0"], STATIC_ROOT=str(root))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (root / "staticfiles.json").is_file()
    assert root.stat().st_mode & 0o777 == 0o755, "another account runs the panel"
    assert (root / "staticfiles.json").stat().st_mode & 0o777 == 0o644
    refused = start(["manage.py", "check"], STATIC_ROOT=str(root))
    assert (refused.returncode, "SECRET_KEY is not set" in refused.stderr) == (2, True), "the control"


@pytest.mark.slow
def test_a_wrong_secret_still_stops_the_collection(start: Callable[..., subprocess.CompletedProcess[str]]):
    ended = start(["manage.py", "collectstatic", "--no-input"], SECRET_KEY="short")
    assert (ended.returncode, "SECRET_KEY is too weak" in ended.stderr) == (2, True)


@pytest.mark.slow
def test_the_version_needs_no_settings(start: Callable[..., subprocess.CompletedProcess[str]]):
    for argument in ("version", "--version"):
        ended = start(["manage.py", argument])
        assert (ended.returncode, ended.stdout) == (0, f"Taskruns {__version__}\n")


@pytest.mark.slow
def test_a_byte_order_mark_is_no_part_of_a_name(start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path):
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in GOOD.items()), encoding="utf-8-sig")
    assert start(["manage.py", "check"], ENV_FILE=str(env_file)).returncode == 0


def test_pages_work_without_static_files(settings: Any, tmp_path: Path):
    settings.STATIC_ROOT = tmp_path
    storage = Storage(location=str(tmp_path), base_url="/static/")
    assert storage.url("taskruns/app.js") == "/static/taskruns/app.js"


# --- Logs


@pytest.fixture
def own_levels() -> Any:
    names = ("taskruns", "taskruns.audit", "django_structlog", "urllib3")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_the_log_level_leaves_evidence_alone(level: str, own_levels: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOG_LEVEL", level.lower())
    configured: dict[str, Any] = {}
    monkeypatch.setattr(logging.config, "dictConfig", configured.update)
    logs.configure(environment.log_level())
    found = {name: given.get("level") for name, given in configured["loggers"].items()}
    assert found["taskruns"] == found["django_structlog"] == level
    assert (found["taskruns.audit"], found["urllib3"]) == ("INFO", "CRITICAL")


def test_an_unknown_log_level_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with pytest.raises(ImproperlyConfigured, match=r"^LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR\.$"):
        environment.log_level()


def streamed(caplog: Any) -> list[dict[str, Any]]:
    return [
        line.msg["row"] for line in caplog.records if isinstance(line.msg, dict) and line.msg["event"] == "audit_event"
    ]


def test_each_audit_row_is_a_line_after_commit(
    team: Team, settings: Any, caplog: Any, django_capture_on_commit_callbacks: Any
):
    settings.AUDIT_LOG_STREAM = True
    with django_capture_on_commit_callbacks(execute=True):
        with transaction.atomic():
            record(EventType.TEAM_CREATE, "done", by=Actor.command(), team=team, reason="a\nreason")
        assert streamed(caplog) == [], "not before the commit"
    (row,) = streamed(caplog)
    assert (row["event"], row["seq"], row["reason"]) == ("team.create", 1, "a reason")
    stored = AuditEvent.objects.get()
    assert row["hash"] == stored.hash == event_hash({name: value for name, value in row.items() if name != "hash"})
    json.dumps(row)


def test_a_row_that_is_rolled_back_is_no_line(
    team: Team, settings: Any, caplog: Any, django_capture_on_commit_callbacks: Any
):
    settings.AUDIT_LOG_STREAM = True
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        record(EventType.TEAM_CREATE, "done", by=Actor.command(), team=team)
        transaction.set_rollback(True)
    assert (streamed(caplog), events()) == ([], [])


def test_without_the_variable_no_row_is_a_line(team: Team, caplog: Any, django_capture_on_commit_callbacks: Any):
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        record(EventType.TEAM_CREATE, "done", by=Actor.command(), team=team)
    assert (streamed(caplog), events()) == ([], [("team.create", "done")])


@pytest.mark.slow
def test_rows_of_commands_are_lines_too(start: Callable[..., subprocess.CompletedProcess[str]]):
    secrets = GOOD | {"AUDIT_LOG_STREAM": "on"}
    assert start(["manage.py", "migrate", "--verbosity", "0"], **secrets).returncode == 0
    ended = start(["manage.py", "create_team", "Ops"], **secrets)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["row"]["event"] for line in lines if line["event"] == "audit_event"] == ["team.create"]
    assert start(["manage.py", "create_team", "Ops 2"], **GOOD).stderr == "", "the control"


def test_a_job_that_fails_is_logged_with_its_name(caplog: Any, monkeypatch: pytest.MonkeyPatch, db: None):
    def fail(*_: Any) -> None:
        raise RuntimeError("why")

    monkeypatch.setattr(jobs.audit, "run_verification", fail)
    task = jobs.run_verification.s("6f1c6d2e-8a54-4a43-9d0e-0c8a3a4a2b11")
    HUEY.execute(task)
    (line,) = [line.msg for line in caplog.records if isinstance(line.msg, dict) and line.msg["event"] == "job_failed"]
    assert line["job"] == "run_verification"
    assert "RuntimeError: why" in line["exception"]
    assert "Unhandled exception" not in caplog.text


def test_libraries_do_not_log_beside_the_panel(caplog: Any):
    for name in ("urllib3", "urllib3.connectionpool", "urllib3.util.retry"):
        logging.getLogger(name).warning("Retrying %s", "/v2/tasks")
        logging.getLogger(name).error("failed")
    assert caplog.records == []
    logging.getLogger("another").warning("the control")
    assert len(caplog.records) == 1


# --- The version


def test_health_check_and_pages_say_which_version(client: Client, vera: User, client_of: ClientOf):
    assert client.get("/healthz")["Taskruns-Version"] == __version__
    assert f"Taskruns {__version__}</footer>" in client_of(vera).get("/teams/ops-north/runs/").content.decode()
    assert __version__ not in client.get("/accounts/login/").content.decode(), "strangers need not know"
