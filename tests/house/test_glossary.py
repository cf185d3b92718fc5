"""One word per concept (CONTRIBUTING.md, Glossary): no name of ours contains a word that the glossary retired."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.reading_list import tracked
from tests.paths import ROOT
from tests.sources import HAND_WRITTEN, TESTS, named

# Parts of names. Event codes, right names, urls, columns and detail keys are contracts and therefore exempt.
FORBIDDEN = {
    *("bulk", "press", "pressed", "verdict", "ending", "endings", "closing", "seal", "sealed", "sealing", "reseal"),
    *("identities", "fresh", "freshly", "proof", "proofs", "ceiling", "walk", "walks", "beat", "seat"),
    *("seats", "freezing", "keeping", "spelling", "spelled", "damaged", "meanwhile", "outgrown"),
}
# Whole names of files.
FORBIDDEN_FILES = {
    *("asked", "ways", "keeping", "freezing", "opening", "working", "ending", "closing", "together", "walks", "ages"),
    *("faults", "proofs", "declared", "spelling", "damaged", "steps", "outside", "seal", "many", "words"),
    *("mailed_reset", "bulk", "display", "single_sign_on", "identities", "oidc_flow"),
}
PHRASES = (
    *("Cancels of many", "come to their end", "is no UTF-8", "who knows your password is you"),
    *("has a fault of its own", "broken off", "Turning the ring", "Outgrown", "was whole"),
)
TEXTS = tracked("*.py", "*.html", "*.txt", "*.js", "*.css", "*.md", "Makefile", ".ci/run")


def names(path: Path) -> Iterator[str]:
    """The names of the file and of its classes and functions, except tests, which are named in sentences."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        is_definition = isinstance(node, ast.ClassDef | ast.FunctionDef)
        if is_definition and not node.name.startswith("test_"):
            yield node.name


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_a_name_is_split_into_its_words():
    assert words("test_SealBroken_of_runs") == {"test", "seal", "broken", "of", "runs"}


def test_no_name_contains_a_retired_word():
    files = [*HAND_WRITTEN, *TESTS]
    assert not [(named(path), name) for path in files for name in names(path) if words(name) & FORBIDDEN]


def test_no_file_or_folder_has_a_retired_name():
    parts = {part for path in [*HAND_WRITTEN, *TESTS] for part in path.relative_to(ROOT).with_suffix("").parts}
    assert "runs" in parts
    assert not parts & FORBIDDEN_FILES


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_text_contains_a_retired_phrase(phrase: str):
    outside = [path for path in TEXTS if not {"tests", "migrations"} & set(path.relative_to(ROOT).parts)]
    assert len(outside) > 100
    stored = '"broken off"'  # a result of a verification, in old rows too
    texts = {path: " ".join(path.read_text().lower().replace(stored, "").split()) for path in outside}
    assert not [named(path) for path, text in texts.items() if phrase.lower() in text]
