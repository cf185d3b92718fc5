"""The project's own Python files."""

from pathlib import Path

from tests.paths import ROOT

SOURCES = sorted(path for folder in ("config", "taskruns") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HAND_WRITTEN = [path for path in SOURCES if "migrations" not in path.parts]
TEXTS = {path: path.read_text() for path in SOURCES}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def on_floors(*floors: str) -> list[Path]:
    """The hand-written files in these folders of `taskruns/`."""
    return [path for path in HAND_WRITTEN if path.relative_to(ROOT).parts[:2] in {("taskruns", it) for it in floors}]
