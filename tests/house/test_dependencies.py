"""The code imports only what `pyproject.toml` declares, never a dependency of a dependency."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OURS = {"config", "taskruns", "tests"}
RUNTIME = [ROOT / "manage.py", ROOT / "gunicorn.conf.py", *ROOT.glob("config/**/*.py"), *ROOT.glob("taskruns/**/*.py")]
# They run in environments of their own.
CLIENTS = ROOT / "tests" / "real_clients"
PROGRAMS = sorted(CLIENTS.glob("programs/*.py"))
TESTS = sorted({*ROOT.glob("tests/**/*.py")} - {*PROGRAMS})
DISTRIBUTIONS = packages_distributions()
# Declared and used, but neither imported nor named in a setting.
BY_URL = {"psycopg", "redis"}  # selected by DATABASE_URL and QUEUE_URL


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {normal(match[0]) for match in found if match}


DEPENDENCIES = declared(PROJECT["project"]["dependencies"])
DEVELOPMENT = declared(PROJECT["dependency-groups"]["dev"])


def modules_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def imported(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Distribution -> files that import one of its modules."""
    found: dict[str, set[str]] = {}
    for path in paths:
        for module in set(modules_in(path)) - OURS - set(sys.stdlib_module_names):
            for distribution in DISTRIBUTIONS.get(module, [module]):
                found.setdefault(normal(distribution), set()).add(str(path.relative_to(ROOT)))
    return found


def test_the_panel_declares_what_it_imports():
    found = imported(RUNTIME)
    assert {"django", "requests", "pyjwt"} <= found.keys()
    assert {name: files for name, files in found.items() if name not in DEPENDENCIES} == {}


def test_the_tests_declare_what_they_import():
    found = imported(TESTS)
    assert {"pytest", "django", "fido2"} <= found.keys()
    assert {name: files for name, files in found.items() if name not in DEPENDENCIES | DEVELOPMENT} == {}


@pytest.mark.parametrize("name", sorted(DEPENDENCIES - BY_URL))
def test_everything_declared_is_used(name: str):
    texts = "\n".join(path.read_text(encoding="utf-8") for path in [*RUNTIME, ROOT / "Procfile"])
    modules = {module for module, names in DISTRIBUTIONS.items() if name in map(normal, names)}
    assert modules, f"{name} is not installed"
    assert any(re.search(rf"(?<![\w.-]){re.escape(module)}\b", texts) for module in modules)


@pytest.mark.parametrize("locked", ["requirements.txt", "requirements-dev.txt"])
def test_everything_declared_is_locked(locked: str):
    names = {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / locked).read_text(), re.MULTILINE)}
    assert names >= DEPENDENCIES
    assert (names >= DEVELOPMENT) == (locked == "requirements-dev.txt")


def test_the_programs_of_real_clients_import_their_clients_alone():
    assert imported(PROGRAMS).keys() == {"airflow", "arize", "ax", "protocol"}


@pytest.mark.parametrize("pinned", ["arize==8.61.0", "arize-ax-cli==0.39.0", "arize-ax-airflow-provider==1.6.0"])
def test_each_real_client_is_pinned_outside_the_panels_lock(pinned: str):
    locked = [line for path in CLIENTS.glob("requirements-*.txt") for line in path.read_text().splitlines()]
    assert pinned in locked
    assert f"{pinned.partition('==')[0]}==" not in (ROOT / "requirements-dev.txt").read_text()


@pytest.mark.parametrize("lock", ["requirements-sdk.txt", "requirements-airflow.txt", "package-lock.json"])
def test_locks_of_real_clients_name_no_registry(lock: str):
    assert "://" not in (CLIENTS / lock).read_text()
    assert "file:" not in (CLIENTS / lock).read_text()
