"""Upgrading a database of release 0.1.0 loses nothing, and applied migrations never change."""

import hashlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.conf import global_settings
from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from taskruns.audit import Actor
from taskruns.audit.append_only import missing_triggers
from taskruns.models import AuditEvent, Cancellation, Credential, Membership, Outcome, Run, Task, Team, TeamRole, User
from taskruns.models.folded import fold
from taskruns.services import audit
from tests.migrations.kept_database import FILLED_BY_MIGRATE, kept_database, kept_rows
from tests.paths import ROOT
from tests.stored import dump

# SHA-256 of each released migration. Add a line for a new one; never change a line.
APPLIED = {
    "0001_initial.py": "8a6a7b5feb1edb7eb372b05ac665430b5364f11dc8110a7fcc1457d8d494b643",
    "0002_cache_table.py": "8206727a042b83189f191799b389dea66131c19de2ab4b8dcdb7daaa3c6d8d0d",
    "0003_person_sessions.py": "d84dfe971077b4f2dc1c19d8d20464c12e5f4aa8463a6e7edc7f83b6de854fff",
    "0004_cache_and_ring_keys.py": "45405ec335cd853bc75cc7158e46de3db4a91d941e72cf0e3bf00d7204f18073",
    "0005_leases.py": "1f2911fdf3c47cdb0c9d073e2bec0655b7cbe2a62832f7b5b6535eca29683d23",
    "0006_people_and_sso.py": "5d0885af09ad78d13edd1c0566250ed90231dd722f71e9b134649c1aaa2b828a",
    "0007_search_names.py": "519aa9abc76270d19e21ef23d4150b59ae62aea1f2ff2cf7b35b9531367613ee",
    "0008_limits_per_person.py": "be9cfc0f68099c8014883c1da14588f24b5029cb8e3d6dd613f3216a36ef7faa",
    "0009_signing_key_uses.py": "ec00cd2e275c06351b67335fcdaa5fb11fd87cd26d840997891dc8e9a167f9eb",
    "0010_searches_and_looks.py": "343d16b0bc71ef7fd1d06befbd4c0f7f935400400b28bb851703680a474acd24",
    "0011_run_facts.py": "14924b6595e3999549be96f489912c92080221856736d0fef2f09837d2282a20",
    "0012_truth_of_cancels.py": "0e61c95909d2cf769f8cb69bae63da5d151417048ce28054da40e383ca039b65",
    "0013_board_filters.py": "95caa62cab3336428952ce99c9d754b41dbda0e8c5e5fafc0ea35e9dd9f7be7f",
    "0014_start_again.py": "0d1e0edde28b7bd8fe10a6556ab0d4c2af7d0067546da7504f148db8eb7f0f34",
    "0015_run_notes.py": "9f56508bbc8abacd9b468b51e4b730ef21ee46ee7762e753175408d3b5ed04cf",
    "0017_restores.py": "6a09a25b51c18946d3b4d239c6573b64c9e1256996ca9013145921033d52e368",
    "0018_channels.py": "babcf2c2ed239164d22d66c08cc666d02f355eba4776fa8ea470c7ad6db33ea2",
    "0019_episodes.py": "37a92f6fa2892d06910e753ff21675e5612bc9ced167dca8500c0229e7b405c6",
    "0020_open_incidents.py": "7343ab9fcd30d4680d14122826bc19c74972730b2b44dd16693c37eaa81a23a5",
    "0021_arize_hooks.py": "d25bdf130e6279f95f933db4b4049752a6e344ad0ecb2bc7f0cca65cff16c012",
    "0022_tokens.py": "23f1bfc83c28e686aa27c5d39cff3884c7e96b9b9119f49dd61f30918bd21fce",
}
Schema = dict[str, Any]
# Tables added after the release, and those that an upgrade drops: the old sessions hold keys that still work.
NEW = {
    "cache",
    "taskruns_arizehook",
    "taskruns_channel",
    "taskruns_delivery",
    "taskruns_episode",
    "taskruns_lease",
    "taskruns_logposition",
    "taskruns_move",
    "taskruns_personsession",
    "taskruns_rule",
    "taskruns_runfact",
    "taskruns_runnotice",
    "taskruns_persontally",
    "taskruns_restore",
    "taskruns_ringkeycheck",
    "taskruns_runsearch",
    "taskruns_runnote",
    "taskruns_signincount",
    "taskruns_signingkeyuse",
    "taskruns_token",
}
DROPPED = {"django_session", "usersessions_usersession"}


def test_no_applied_migration_has_changed():
    folder = ROOT / "taskruns" / "migrations"
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[0-9]*.py")}
    assert found == APPLIED


def schema_of(database: BaseDatabaseWrapper) -> Schema:
    """Every table with its columns, constraints and indexes, as the database itself describes them."""
    look = database.introspection
    with database.cursor() as cursor:
        tables = look.table_names(cursor)
        return {
            table: {
                "columns": sorted(look.get_table_description(cursor, table)),
                "constraints": look.get_constraints(cursor, table),
            }
            for table in tables
        }


def columns_of_models() -> dict[str, dict[str, bool]]:
    """Table -> column -> whether the model allows null. Generated columns always allow it in the database."""
    return {
        model._meta.db_table: {field.column: field.null or field.generated for field in model._meta.concrete_fields}
        for model in apps.get_app_config("taskruns").get_models()
    }


def counts(database: BaseDatabaseWrapper, tables: Any) -> dict[str, int]:
    with database.cursor() as cursor:
        found = {}
        for table in tables:
            cursor.execute(f'SELECT COUNT(*) FROM "{table}"')
            found[table] = cursor.fetchone()[0]
        return found


# The mark provides the new database to compare with. Each test's changes to the upgraded one are rolled back.
pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def new_schema(django_db_setup: None, django_db_blocker: Any) -> Schema:
    """The tables that the migrations create in an empty database."""
    with django_db_blocker.unblock():
        return schema_of(connections["default"])


@pytest.fixture(scope="module")
def upgraded(
    new_schema: Schema, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BaseDatabaseWrapper]:
    with django_db_blocker.unblock(), kept_database(tmp_path_factory.mktemp("kept")) as kept:
        call_command("migrate", verbosity=0)
        yield kept


def test_the_release_database_has_rows_in_every_table():
    kept = kept_rows()
    assert not [table for table in columns_of_models().keys() - NEW if not kept[table]]
    assert not [table for table in DROPPED if not kept[table]]
    assert {row["status"] for row in kept["taskruns_run"]} >= {"running", "cancelled", "completed"}


def test_an_upgraded_database_has_the_tables_of_a_new_one(upgraded: BaseDatabaseWrapper, new_schema: Schema):
    assert schema_of(upgraded) == new_schema
    assert missing_triggers(upgraded) == []


def test_the_tables_of_an_upgrade_match_the_models(upgraded: BaseDatabaseWrapper):
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    call_command("migrate", check_unapplied=True, verbosity=0)
    schema = schema_of(upgraded)
    wanted = columns_of_models()
    assert {table: {column.name: column.null_ok for column in schema[table]["columns"]} for table in wanted} == wanted


def test_an_upgrade_drops_the_old_sessions_and_their_keys(upgraded: BaseDatabaseWrapper):
    (key,) = (row["session_key"] for row in kept_rows()["django_session"])
    assert not DROPPED & set(schema_of(upgraded))
    assert counts(upgraded, {"taskruns_personsession"}) == {"taskruns_personsession": 0}
    assert key not in repr(dump()), "everyone signs in again"


def test_an_upgrade_keeps_every_other_row(upgraded: BaseDatabaseWrapper):
    kept = {table: len(rows) for table, rows in kept_rows().items()}
    tables = kept.keys() - set(FILLED_BY_MIGRATE) - DROPPED
    assert counts(upgraded, tables) == {table: kept[table] for table in tables}


def test_stored_passwords_and_secrets_work_after_an_upgrade(upgraded: BaseDatabaseWrapper, settings: Any):
    settings.PASSWORD_HASHERS = global_settings.PASSWORD_HASHERS
    team = Team.objects.get(slug="ops-north")
    oli = User.objects.get(email="oli@example.com")
    assert oli.check_password("kept since 0.1.0")
    assert Membership.objects.get(team=team, user=oli).role == TeamRole.OPERATOR
    assert Credential.objects.get(team=team).decrypt_secret() == "ak-kept-0-1-0-key-000"
    outcomes = set(Cancellation.objects.filter(run__team=team).values_list("outcome", flat=True))
    assert {Outcome.CONFIRMED, Outcome.UNKNOWN} <= outcomes
    assert Run.objects.filter(team=team, sort_started_at__isnull=False).exists()


def test_the_audit_log_verifies_after_an_upgrade(upgraded: BaseDatabaseWrapper):
    rows = AuditEvent.objects.count()
    faults: list[str] = []
    report = audit.verify(by=Actor.command(), progress=lambda _: None, found=faults.append)
    assert (faults, report.rows) == ([], rows)
    assert sum(report.anchors_of.values()) == 4
    assert AuditEvent.objects.count() == rows + len(report.rows_of), "each chain accepts another row"


def test_an_upgrade_makes_task_names_searchable(upgraded: BaseDatabaseWrapper):
    names = dict(Task.objects.values_list("name", "search_name"))
    assert names["Hallucination evaluation"] == "hallucination evaluation"
    assert names == {name: fold(name) for name in names}


def test_a_differing_table_is_detected(upgraded: BaseDatabaseWrapper, new_schema: Schema):
    """The control of the comparison."""
    with upgraded.cursor() as cursor:
        cursor.execute("ALTER TABLE taskruns_heartbeat ADD COLUMN forgotten integer NULL")
        assert schema_of(upgraded) != new_schema
        cursor.execute("ALTER TABLE taskruns_heartbeat DROP COLUMN forgotten")
    assert schema_of(upgraded) == new_schema


def test_names_are_folded_in_chunks(upgraded: BaseDatabaseWrapper, monkeypatch: pytest.MonkeyPatch):
    migration = import_module("taskruns.migrations.0007_search_names")
    monkeypatch.setattr(migration, "CHUNK", 3)
    team = Team.objects.create(slug="chunks", name="Chunks")
    Task.objects.bulk_create(
        Task(team=team, endpoint="", arize_id=str(number), name=f"É{number}") for number in range(10)
    )
    Task.objects.update(search_name="")
    migration.fold_names(apps, None)
    assert sorted(team.tasks.values_list("search_name", flat=True)) == [f"e{number}" for number in range(10)]
