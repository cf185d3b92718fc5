"""`make release`: one number, a dated changelog, and nothing else."""

import re
import tomllib
from pathlib import Path

import pytest

from config.release import Refused, main, release
from tests.paths import ROOT

CHANGES = "# Changelog\n\n## Unreleased\n\n### Added\n\n- Something.\n\n## 0.1.0\n\n- The first.\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "taskruns").mkdir()
    (tmp_path / "taskruns" / "__init__.py").write_text('"""Taskruns."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    return tmp_path


def content(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.*") if path.is_file()}


def test_a_release_sets_the_number_and_dates_the_changelog(checkout: Path):
    said = release("0.2.0", root=checkout, today="2026-12-01")
    assert content(checkout) == {
        "taskruns/__init__.py": '"""Taskruns."""\n\n__version__ = "0.2.0"\n',
        "CHANGELOG.md": CHANGES.replace("## Unreleased\n", "## Unreleased\n\n## 0.2.0 - 2026-12-01\n"),
    }
    assert 'git tag -a v0.2.0 -m "Taskruns 0.2.0"' in said


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("", "three numbers"),
        ("1.2", "three numbers"),
        ("v1.2.3", "three numbers"),
        ("1.2.3rc1", "three numbers"),
        ("01.2.3", "three numbers"),
        ("0.0.9", "older than 0.1.0"),
        ("0.1.0", "already has version 0.1.0"),
    ],
)
def test_a_wrong_version_changes_nothing(checkout: Path, version: str, says: str):
    before = content(checkout)
    with pytest.raises(Refused, match=says):
        release(version, root=checkout, today="2026-12-01")
    assert content(checkout) == before


def test_an_empty_changelog_is_no_release(checkout: Path):
    (checkout / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- The first.\n")
    with pytest.raises(Refused, match="nothing under Unreleased"):
        release("0.2.0", root=checkout, today="2026-12-01")


def test_a_missing_version_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_number_stands_in_one_place():
    number = re.search(r'^__version__ = "(.+)"$', (ROOT / "taskruns" / "__init__.py").read_text(), re.MULTILINE)
    assert number
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ("version" not in project, project["dynamic"]) == (True, ["version"])
    assert f"## {number[1]}" in (ROOT / "CHANGELOG.md").read_text()
