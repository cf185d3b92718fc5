"""THREAT_MODEL.md: every test it names exists."""

import ast
import re
from importlib import import_module

import pytest

from taskruns.services.people.sign_in_limits import Limit
from tests.paths import ROOT

TEXT = (ROOT / "THREAT_MODEL.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
LIMITS = re.findall(r"`((?:taskruns|config)[\w.]+)\.(\w+)` = `(.+?)`", TEXT)
PROMISES = (
    *(
        "Only the right people reach each URL",
        "IDs of another team open nothing",
        "Rights are checked at the moment of each action",
    ),
    *(
        "A stored API key is never shown again",
        "Ciphertext is bound to its row",
        "Keys can be rotated",
        "API keys are sent to Arize only",
    ),
    *(
        "TLS certificates are verified",
        "Text from Arize is never markup",
        "Every response carries security headers",
        "No change without a CSRF token",
    ),
    *("No open redirect", "Strong sign-in", "Leavers leave", "Names in the log are those of their owners"),
    *("Sessions end", "A copy of the database opens no session", "Input is validated"),
    *(
        "Strangers cannot fill the database or stop the web server",
        "Nobody stops the panel alone",
        "Data is never code",
        "A process with wrong secrets does no harm",
    ),
    *("Clients cannot forge their address", "Log lines cannot be forged", "Errors reveal no internals"),
    *(
        "Repeated clicks send one request",
        "No audit row, no action",
        "Unsafe settings stop the start",
        "Dependencies are locked",
    ),
    *(
        "Tampering with the audit log is detected",
        "An export proves itself",
        "A restore hides nothing",
        "Strangers cannot flood the audit log",
        "What the panel sends out is fenced",
        "Only Arize nudges the panel",
        "A token is less than its maker",
        "The gateway passes only what it lists",
        "Scripts starve nobody",
    ),
)


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[str, str]:
    """First cell -> the rest of the row, without the table header."""
    lines = [line.strip("| ") for line in section(title).splitlines() if line.startswith("|")]
    return dict(tuple(map(str.strip, line.split("|", 1))) for line in lines[2:])  # type: ignore[misc]


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_named_test_exists(file: str):
    assert (ROOT / file).is_file()
    assert {name for named_in, name in NAMED if named_in == file} <= defined_in(file)


def test_every_promise_names_its_tests():
    promised = rows("What is promised")
    assert set(PROMISES) <= set(promised)
    for promise, rest in promised.items():
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", rest), promise
        assert re.search(r"\| [\d., x]+ *$", rest), promise


def test_every_promise_is_in_the_text():
    explained = re.findall(r"^- \*\*(.+?)\.\*\* \w", section("What is promised"), re.MULTILINE)
    assert explained == list(rows("What is promised"))


def test_everything_missing_belongs_to_a_promise():
    missing = rows("Not yet") if "\n## Not yet\n" in TEXT else {}
    assert set(missing) <= set(PROMISES)
    assert all(wants.startswith("not yet: ") for wants in missing.values())


def test_a_missing_test_is_found():
    assert "test_every_named_test_exists" in defined_in("tests/house/test_threat_model.py")
    assert "test_nobody_wrote_this" not in defined_in("tests/house/test_threat_model.py")
    assert len(NAMED) > 60


def test_dependencies_are_locked_by_hash_and_auditable():
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        packages = re.split(r"\n(?=[a-z0-9])", text.strip())
        assert len(packages) > 20
        assert all(re.match(r"[\w.\[\]-]+==[\w.+]+", package) for package in packages)
        assert not [package.split("==")[0] for package in packages if "--hash=sha256:" not in package]
        assert not re.search(r"https?://|git\+|--(extra-)?index-url|--trusted-host", text)
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes" in re.search(r"^PIP\s*:=.*$", makefile, re.MULTILINE)[0]  # type: ignore[index]
    assert re.search(r"^audit:.*\n\t@\$\(BIN\)/pip-audit --require-hashes .*--strict", makefile, re.MULTILINE)


def shown(value: object) -> str:
    return f"{value.attempts} in {value.window}" if isinstance(value, Limit) else str(value)


@pytest.mark.parametrize(("module", "name", "value"), LIMITS)
def test_table_of_limits_shows_what_the_code_says(module: str, name: str, value: str):
    assert shown(getattr(import_module(module), name)) == value


def test_table_of_limits_is_read():
    assert len(LIMITS) >= 18
