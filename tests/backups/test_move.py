"""Moving the panel between SQLite and PostgreSQL: every value arrives, and the audit log verifies."""

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from taskruns.services import moves
from taskruns.services.moves import copying
from tests.backups.deployment import Deployment, Template, copy_of, migrated_deployment

ODD = 'naïve \N{PILE OF POO} 東京 \u0301 \x7f "quoted" back\\slash tab\tend\u200b'
FILL = """
import django
django.setup()
from datetime import UTC, datetime, timedelta
from django.db import transaction
from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed
from taskruns.models import Credential, SavedView, Team, User
from tests.backups.test_move import ODD
from tests.factories import make_run, make_task
team = Team.objects.get(slug="ops-north")
key = Credential.objects.get(team=team)
key.spaces = [{"id": "s1", "name": ODD, "big": 2**60, "none": None, "yes": True, "deep": [[], {}]}]
key.created_at = datetime(2026, 3, 29, 1, 59, 59, 1, tzinfo=UTC)
key.save()
task = make_task(team, key)
type(task).objects.update(name=ODD)
for number in range(3):
    make_run(task, arize_id=f"R{number}", observed_at=key.created_at + timedelta(microseconds=number))
mona = User.objects.get(email="mona@example.com")
SavedView.objects.create(team=team, owner=mona, name=ODD[:40], query="?status=running")
for reason in (ODD, ""):
    with transaction.atomic():
        record(EventType.TEAM_CHANGE, "done", by=Actor.command(), team=team, reason=reason, details={"before": ODD})
anchor_changed()
"""
# Every column of every table that a move copies, as Python's values.
READ = """
import django, json
django.setup()
from taskruns.services.moves.copying import copied_models
found = {}
for model in copied_models():
    names = [field.attname for field in model._meta.concrete_fields]
    found[model._meta.db_table] = list(model._default_manager.order_by("pk").values_list(*names))
print(json.dumps(found, default=repr, sort_keys=True))
"""


def rows_of(deployment: Deployment) -> dict[str, list[list[object]]]:
    found: dict[str, list[list[object]]] = json.loads(deployment.program(READ))
    return found


def test_json_text_is_written_as_sqlite_stores_it():
    text = json.dumps({"a": ODD, "b": [1, 2.5, None]}, ensure_ascii=False)
    assert copying._ascii(text) == json.dumps({"a": ODD, "b": [1, 2.5, None]})
    assert copying._ascii(None) is None


def test_every_table_is_copied_except_the_two_of_one_database_only():
    names = {model.__name__ for model in copying.copied_models()}
    assert {"AuditEvent", "Run", "RunSearch", "User", "ContentType", "Authenticator"} <= names
    assert not names & {"CacheEntry", "Move"}


@pytest.mark.slow
def test_a_target_is_refused_with_a_reason(migrated_file: Path, tmp_path: Path):
    """Without showing the URL, which may hold a password."""
    (tmp_path / "panel").mkdir()
    file = tmp_path / "panel" / "taskruns.sqlite3"
    file.write_bytes(migrated_file.read_bytes())
    panel = Deployment(f"sqlite:///{file}", tmp_path / "panel", tmp_path / "anchors.jsonl")
    secret = secrets.token_hex(8)
    for url, why in (
        (f"mysql://me:{secret}@127.0.0.1/x", "The target must be sqlite:////<file> or postgres://"),
        (f"sqlite:///{tmp_path}/{secret}", "There is no such SQLite file. Run `manage.py migrate` there first"),
        (f"sqlite:///{file}", "Both databases are SQLite. Use `manage.py backup`"),
        (f"postgres://me:{secret}@127.0.0.1:1/x", "Nothing was moved. One of the two databases refused a step"),
    ):
        said = panel.refused(2, "move_to", url)
        assert said.startswith(why)
        assert secret not in said


if connection.vendor == "postgresql":
    pytestmark = [pytest.mark.database]

    @pytest.fixture(scope="module")
    def filled_file(filled_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """With odd values too."""
        odd = copy_of(filled_file, tmp_path_factory.mktemp("odd") / "panel")
        odd.program(FILL)
        return odd.directory / filled_file.name

    @pytest.fixture
    def on_postgresql(tmp_path: Path, template: Template, on_sqlite: Deployment) -> Iterator[Deployment]:
        """Migrated, without rows. Its anchors are those of the panel that moves."""
        with migrated_deployment(tmp_path / "postgresql", on_sqlite.anchors, template) as made:
            yield made

    @pytest.mark.slow
    def test_everything_moves_there_and_back(
        on_sqlite: Deployment, on_postgresql: Deployment, migrated_file: Path, tmp_path: Path
    ):
        before = rows_of(on_sqlite)
        said = on_sqlite.done("move_to", on_postgresql.url)
        assert "clean" in said
        after = rows_of(on_postgresql)
        new = after["taskruns_auditevent"][len(before["taskruns_auditevent"]) :]
        assert {row[6] for row in new} == {"audit.verify"}, "only the verification wrote rows"
        for table in before.keys() - {"taskruns_auditevent", "taskruns_auditchain", "taskruns_auditverification"}:
            assert after[table] == before[table], table
        assert after["taskruns_auditevent"][: -len(new)] == before["taskruns_auditevent"]
        assert "was already moved there" in on_sqlite.done("move_to", on_postgresql.url)
        on_postgresql.done("create_team", "After the move")  # numbers continue
        moved = rows_of(on_postgresql)
        (tmp_path / "back").mkdir()
        back = Deployment(f"sqlite:///{tmp_path}/back/taskruns.sqlite3", tmp_path / "back", on_sqlite.anchors)
        (tmp_path / "back" / "taskruns.sqlite3").write_bytes(migrated_file.read_bytes())
        assert "clean" in on_postgresql.done("move_to", back.url)
        again = rows_of(back)
        for table in moved.keys() - {"taskruns_auditevent", "taskruns_auditchain", "taskruns_auditverification"}:
            assert again[table] == moved[table], table
        assert again["taskruns_auditevent"][: len(moved["taskruns_auditevent"])] == moved["taskruns_auditevent"]
        back.done("create_team", "Back again")

    @pytest.mark.slow
    def test_an_interrupted_move_leaves_no_rows_and_is_repeated(on_sqlite: Deployment, on_postgresql: Deployment):
        with closing(sqlite3.connect(on_sqlite.url.removeprefix("sqlite:///"))) as file:
            file.execute("UPDATE taskruns_savedview SET query = 'a' || char(0) || 'b'")
            file.commit()
        said = on_sqlite.refused(2, "move_to", on_postgresql.url)
        assert said.startswith("Nothing was moved. One of the two databases refused a step: DataError.")
        left = rows_of(on_postgresql)
        assert (left["taskruns_team"], left["taskruns_auditevent"]) == ([], [])
        with closing(sqlite3.connect(on_sqlite.url.removeprefix("sqlite:///"))) as file:
            file.execute("UPDATE taskruns_savedview SET query = 'a'")
            file.commit()
        assert "clean" in on_sqlite.done("move_to", on_postgresql.url)

    @pytest.mark.slow
    def test_rows_in_the_target_and_a_running_worker_stop_it(on_sqlite: Deployment, on_postgresql: Deployment):
        file = on_sqlite.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file)) as source:
            source.execute("INSERT INTO taskruns_heartbeat VALUES ('worker', strftime('%Y-%m-%d %H:%M:%f', 'now'))")
            source.commit()
        assert on_sqlite.refused(2, "move_to", on_postgresql.url).startswith(
            "The worker was seen in the last 30 seconds"
        )
        on_postgresql.done("create_team", "Mine")
        said = on_sqlite.refused(2, "move_to", on_postgresql.url)
        assert said.startswith("The target already has rows, and a move never replaces any.")


def test_a_move_without_statistics_is_no_move_of_nothing(db: None, monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise OperationalError("no room")

    for name, does in {"connect": lambda _: None, "finished_at": lambda: None, "problem": lambda: ""}.items():
        monkeypatch.setattr(moves, name, does)
    monkeypatch.setattr(moves, "move", lambda _: {"taskruns_run": 3})
    monkeypatch.setattr(moves, "analyze", refuse)
    with pytest.raises(CommandError, match=r"The rows were moved, but .* Run ANALYZE and verify_audit there"):
        call_command("move_to", "postgres://target")
