"""The layout of the tests: shared code is in modules, fixtures are in conftest files."""

import ast
from collections.abc import Iterator

import pytest

from tests.sources import TESTS, named

SHORTCUTS = {
    "from tests.people.test_sign_in import sign_in": "test_sign_in",
    "from .test_chain import in_threads": "test_chain",
    "from tests.e2e.conftest import Visit": "conftest",
    "from tests.access import test_matrix": "test_matrix",
    "import tests.jobs.test_jobs": "test_jobs",
    "assert stage": "assert",
    "__all__ = ['stage']": "__all__",
}


def imported(tree: ast.Module) -> Iterator[str]:
    """The parts of each import from `tests`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                part for alias in node.names if alias.name.startswith("tests.") for part in alias.name.split(".")
            )
        elif isinstance(node, ast.ImportFrom) and (node.level or str(node.module).startswith("tests")):
            yield from [*(node.module or "").split("."), *(alias.name for alias in node.names)]


def shortcuts(text: str) -> list[str]:
    """Imports of files that only pytest should load, and lines that exist only to keep a fixture's import."""
    tree = ast.parse(text)
    found = [part for part in imported(tree) if part == "conftest" or part.startswith("test_")]
    found += ["assert" for node in tree.body if isinstance(node, ast.Assert)]
    return found + [name for node in tree.body for name in assigned(node) if name == "__all__"]


def assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def fixtures(text: str) -> list[str]:
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if any("fixture" in ast.unparse(mark) for mark in node.decorator_list)]


def test_nothing_is_imported_from_a_test_file():
    found = {named(path): shortcuts(path.read_text()) for path in TESTS}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(("line", "name"), SHORTCUTS.items())
def test_each_shortcut_is_found(line: str, name: str):
    """The control of the test above."""
    assert shortcuts(line) == [name]


def test_fixtures_are_where_pytest_finds_them():
    with_fixtures = {path.name for path in TESTS if fixtures(path.read_text())}
    assert "conftest.py" in with_fixtures
    assert [name for name in with_fixtures if name != "conftest.py" and not name.startswith("test_")] == []
