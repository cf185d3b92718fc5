"""A panel with rows and its backup, shared by all tests here: a command is a process, and a new database takes long."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from tests.backups.deployment import Deployment, Template, copy_of, empty_deployment, filled_deployment
from tests.backups.template import migrated_template
from tests.databases import process_of


@pytest.fixture(scope="session")
def template(request: pytest.FixtureRequest, run_folder: Path) -> Iterator[Template]:
    """A migrated database without rows, of the kind in DATABASE_URL."""
    if connection.vendor == "sqlite":
        yield request.getfixturevalue("migrated_file")
        return
    with migrated_template(run_folder, process_of(request.config) or "the only one") as name:
        yield name


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("panel")


@pytest.fixture(scope="session")
def anchors(folder: Path) -> Path:
    return folder / "anchors.jsonl"


@pytest.fixture(scope="session")
def panel(folder: Path, anchors: Path, template: Template) -> Iterator[Deployment]:
    """Its log grows from test to test."""
    with filled_deployment(folder / "panel", anchors, template) as made:
        yield made


@pytest.fixture(scope="session")
def backup(panel: Deployment, folder: Path) -> Path:
    path = folder / "backup.tar.gz"
    panel.done("backup", str(path))
    return path


@pytest.fixture
def target(tmp_path: Path, anchors: Path) -> Iterator[Deployment]:
    """Without tables."""
    with empty_deployment(tmp_path / "target", anchors) as made:
        yield made


@pytest.fixture(scope="session")
def filled_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with rows, whatever DATABASE_URL names. Its anchors are beside it."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DATABASE_URL")
        with filled_deployment(folder, folder / "anchors.jsonl", migrated_file):
            return folder / "taskruns.sqlite3"


@pytest.fixture
def on_sqlite(tmp_path: Path, filled_file: Path) -> Deployment:
    """A deployment with rows."""
    return copy_of(filled_file, tmp_path / "sqlite")
