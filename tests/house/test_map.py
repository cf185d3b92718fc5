"""CONTRIBUTING.md's map lists each file once, and nothing that does not exist."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FLOORS = {
    "views": "taskruns/views",
    "pages": "taskruns/pages",
    "services": "taskruns/services",
    "forms": "taskruns/forms",
    "models": "taskruns/models",
    "templates": "templates/taskruns",
    "tests": "tests",
}


def table(title: str) -> list[list[str]]:
    """The rows of the first table of a section, without its header."""
    section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def column(floor: str) -> list[str]:
    """The names in one column of the map, in order."""
    at = 1 + list(FLOORS).index(floor)
    return [name for row in table("The map") for name in re.findall(r"`([\w/]+)`", row[at])]


def entries(floor: str) -> set[str]:
    """The content of the floor's folder: files without their extension, folders with a slash."""
    folder = ROOT / FLOORS[floor]
    if floor in {"templates", "tests"}:
        return {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    found = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return found | {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}


@pytest.mark.parametrize("floor", FLOORS)
def test_each_entry_of_a_floor_is_in_the_map_once(floor: str):
    named = column(floor)
    assert sorted(named) == sorted(entries(floor))


def test_a_missing_entry_is_detected():
    assert "runs" in entries("views")
    assert "nonsense" not in column("views")


def test_files_that_the_text_names_exist():
    named = set(re.findall(r"`((?:taskruns|tests|templates|config|docs)/[\w/.]+)`", TEXT))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not Path(ROOT / name).exists()]
