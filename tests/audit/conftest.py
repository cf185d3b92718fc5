"""Fixtures of the audit log: an empty anchor file, named in the settings."""

from pathlib import Path
from typing import Any

import pytest

from .exports import Auditor


@pytest.fixture
def anchor_file(tmp_path: Path, settings: Any) -> Path:
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "anchors.jsonl")
    return Path(settings.AUDIT_ANCHOR_FILE)


@pytest.fixture
def commits(django_capture_on_commit_callbacks: Any) -> Any:
    return lambda: django_capture_on_commit_callbacks(execute=True)


@pytest.fixture
def auditor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Auditor:
    directory = tmp_path / "auditor"
    directory.mkdir()
    return Auditor(directory, capsys)
