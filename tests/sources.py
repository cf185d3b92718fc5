"""The project's own Python files."""

from pathlib import Path

from tests.paths import ROOT

SOURCES = sorted(path for folder in ("config", "taskruns") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = {path: path.read_text() for path in SOURCES}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))
