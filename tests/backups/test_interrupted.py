"""A restore or a move that is killed leaves nothing, or a database in which no panel starts. The next run is clean."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from taskruns.services import unfinished
from taskruns.services.backups import loading
from tests import forked_command
from tests.backups.deployment import Deployment, Template, migrated_deployment

pytestmark = [pytest.mark.slow, pytest.mark.database]

# A command that is killed, or fails, instead of calling a function, or after it.
INTERRUPTED = """
import importlib, os, signal, sys
import django
django.setup()
from django.core.management import ManagementUtility
from django.db import DatabaseError
how, place, *arguments = sys.argv[1:]
module, name = place.split(":")
module = importlib.import_module(module)
original = getattr(module, name)
def breaks(*args, **kwargs):
    if how == "after":
        original(*args, **kwargs)
    if how == "sees nothing":
        return False
    if how == "fails":
        raise DatabaseError("as when the disk is full")
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, breaks)
ManagementUtility(["manage.py", *arguments]).execute()
"""
KILLED = -9


def interrupted(deployment: Deployment, how: str, place: str, *arguments: str) -> int:
    """The exit code."""
    env = deployment.environment | {"DJANGO_SETTINGS_MODULE": "config.settings"}
    return forked_command.run(["-c", INTERRUPTED, how, place, *arguments], env=env, timeout=120).returncode


def starts(deployment: Deployment) -> dict[str, tuple[int, str]]:
    """Exit code and last line of web, worker, a command, and doctor."""
    commands = {
        "web": ["-c", "import config.wsgi"],
        "worker": ["manage.py", "run_huey"],
        "command": ["manage.py", "create_team", "Mine"],
        "backup": ["manage.py", "backup", str(deployment.directory / "half.tar.gz")],
        "adopt": ["manage.py", "restore", "--adopt"],
    }
    ended = {
        name: forked_command.run(command, env=deployment.environment, timeout=60) for name, command in commands.items()
    }
    return {name: (it.returncode, (it.stderr.splitlines() or [""])[-1]) for name, it in ended.items()}


def refusals(sentence: str) -> dict[str, tuple[int, str]]:
    cannot_start, error = f"Cannot start: {sentence}", f"CommandError: {sentence}"
    return {
        "web": (3, cannot_start),
        "worker": (2, cannot_start),
        **dict.fromkeys(("command", "backup", "adopt"), (2, error)),
    }


def left_of(target: Deployment) -> list[str]:
    """Files of a restore, and tables."""
    files = [path.name for path in target.directory.iterdir() if "restor" in path.name or "taskruns" in path.name]
    if target.url.startswith("sqlite"):
        return files
    with psycopg.connect(target.url) as database:
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        return files + [name for (name,) in database.execute(f"{query} UNION {functions}")]


def test_a_killed_restore_never_looks_whole(panel: Deployment, target: Deployment, backup: Path):
    """Neither before the log says what is lost, nor before it is verified."""
    for place in ("taskruns.services.backups:acknowledge", "taskruns.services.audit:verify"):
        assert interrupted(target, "killed", place, "restore", str(backup)) == KILLED
    if target.url.startswith("sqlite"):
        assert not (target.directory / "taskruns.sqlite3").exists()
        assert left_of(target), "the control: it was in the middle"
    else:
        assert starts(target) == refusals(unfinished.RESTORE_INTERRUPTED)
        found = target.run("doctor")
        assert found.returncode == 1
        assert "fail  completeness: A restore or a move" in found.stdout
    assert "audit log: clean" in target.done("restore", str(backup))
    assert target.done("list_teams") == panel.done("list_teams")
    assert not [name for name in left_of(target) if "restoring" in name]


def test_a_failed_restore_leaves_nothing(target: Deployment, backup: Path):
    assert interrupted(target, "fails", "taskruns.services.backups:acknowledge", "restore", str(backup)) == 2
    assert left_of(target) == []


if connection.vendor == "postgresql":

    @pytest.fixture
    def migrated(tmp_path: Path, template: Template) -> Iterator[Deployment]:
        with migrated_deployment(tmp_path / "migrated", tmp_path / "anchors.jsonl", template) as made:
            yield made

    def test_a_program_of_a_killed_restore_is_ended(target: Deployment, backup: Path):
        """Killing `restore` does not kill pg_restore, which would go on and commit."""
        with psycopg.connect(target.url, autocommit=True) as database:
            database.execute(f"CREATE TABLE {unfinished.RESTORING} (backup text)")
        with psycopg.connect(target.url, application_name="pg_restore") as orphan:
            orphan.execute("CREATE TABLE taskruns_run (id integer)")
            assert "audit log: clean" in target.done("restore", str(backup))
            with pytest.raises(psycopg.OperationalError):
                orphan.execute("SELECT 1")

    def test_tables_made_since_the_command_looked_are_not_dropped(migrated: Deployment, backup: Path):
        place = "taskruns.services.backups:has_tables"
        assert interrupted(migrated, "sees nothing", place, "restore", str(backup)) == 2
        migrated.done("list_teams")

    def test_two_restores_do_not_meet(target: Deployment, backup: Path):
        with psycopg.connect(target.url) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [loading._LOCK])
            said = target.refused(2, "restore", str(backup))
        assert said == "Nothing was restored. Another restore into this database still works. Wait until it has ended."
        assert left_of(target) == []

    def test_a_killed_move_never_looks_whole(on_sqlite: Deployment, migrated: Deployment):
        target = migrated
        place = "taskruns.services.moves.actions:copy_all"
        assert interrupted(on_sqlite, "after", place, "move_to", target.url) == KILLED
        assert starts(target) == refusals(unfinished.MOVE_INTERRUPTED)
        said = on_sqlite.done("move_to", target.url)
        assert "clean" in said
        assert target.done("list_teams") == on_sqlite.done("list_teams")
        assert "was already moved there" in on_sqlite.done("move_to", target.url)
