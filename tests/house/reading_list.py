"""Print every text of the panel as one list: `python -m tests.house.reading_list [pages|comments|tests]`.

pages: texts that people see (templates, Python, JavaScript); comments: docstrings and comments; tests: test names.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

_BLOCK_COMMENT = re.compile(r"/\*(.*?)\*/|{#(.*?)#}|<!--(.*?)-->", re.DOTALL)
_JS_COMMENT = re.compile(r"/\*([^*]*)\*/|(?<![:\w\"'])//(.*)")
Text = tuple[Path, int, str]
# Attributes whose values are shown or read aloud.
_SPOKEN = re.compile(r'\b(?:aria-label|title|placeholder|alt|data-[\w-]*(?:text|word|label|copied)[\w-]*)="([^"]+)"')
_TAG = re.compile(r"<[^>]*>", re.DOTALL)
_DJANGO = re.compile(r"{%.*?%}|{#.*?#}", re.DOTALL)
_HIDDEN = re.compile(r"<(style|script)\b.*?</\1>", re.DOTALL)
_JS_STRING = re.compile(r"\"((?:[^\"\\\n]|\\.)*)\"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`")


def tracked(*patterns: str) -> list[Path]:
    found = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(path for name in found.stdout.split() if (path := ROOT / name).exists())


def is_prose(text: str) -> bool:
    """True for text with a space between letters or one capitalised word; not for identifiers, URLs, SQL or formats."""
    text = text.strip()
    if re.fullmatch(r"[A-Z][a-z]+[.!?…]?", text):
        return True
    is_code = re.search(
        r"^(SELECT|CREATE|DROP|UPDATE|INSERT|BEGIN|PRAGMA|ANALYZE|[a-z_]+:|https?:|/)|__|[{}]\s*$|;$", text
    )
    return bool(re.search(r"[A-Za-z]{2,}[^\w\s]* +\S*[A-Za-z]", text)) and not (is_code and len(text.split()) < 4)


def of_templates() -> Iterator[Text]:
    for path in tracked("templates/*.html", "templates/*.txt"):
        html = path.read_text()
        for match in _SPOKEN.finditer(html):
            yield path, line_of(html, match.start()), match[1]
        plain = _HIDDEN.sub(blank, html)
        plain = _DJANGO.sub(blank, plain)
        plain = _TAG.sub(lambda match: blank(match, "\0" if is_block(match[0]) else " "), plain)
        at = 0
        for piece in plain.split("\0"):
            if re.search(r"[A-Za-z]{2}", re.sub(r"{{.*?}}", "", piece)):
                start = at + len(piece) - len(piece.lstrip())
                yield path, line_of(plain, start), " ".join(piece.split())
            at += len(piece) + 1


def is_block(tag: str) -> bool:
    return not re.match(r"</?(a|b|strong|em|code|span|kbd|time|svg|use|abbr|small)\b", tag)


def blank(match: "re.Match[str]", by: str = " ") -> str:
    """Keep the length, so that positions stay valid."""
    kept = "".join("\n" if character == "\n" else " " for character in match[0])
    return by + kept[1:] if kept else by


def line_of(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def of_python() -> Iterator[Text]:
    for path in tracked("taskruns/*.py", "config/*.py", "manage.py", "gunicorn.conf.py"):
        if "migrations" in path.parts or "sandbox" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
                text = node.value
            else:
                continue
            if is_prose(text):
                yield path, node.lineno, " ".join(text.split())


def of_javascript() -> Iterator[Text]:
    for path in tracked("taskruns/static/*.js"):
        source = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
        for match in _JS_STRING.finditer(source):
            text = next(part for part in match.groups() if part is not None)
            if is_prose(text):
                yield path, line_of(source, match.start()), text


def of_comments() -> Iterator[Text]:
    for path in tracked("*.py"):
        yield from of_python_comments(path)
    for path in tracked("*.css", "*.js", "*.html"):
        source = path.read_text()
        for match in (_JS_COMMENT if path.suffix == ".js" else _BLOCK_COMMENT).finditer(source):
            text = next(part for part in match.groups() if part is not None)
            yield path, line_of(source, match.start()), " ".join(text.split())
    for path in [ROOT / "Makefile", ROOT / ".ci/run"]:
        for match in re.finditer(r"(?:^|\s)#+ ?([A-Za-z].*)$", source := path.read_text(), re.MULTILINE):
            yield path, line_of(source, match.start(1)), match[1]


def of_python_comments(path: Path) -> Iterator[Text]:
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (doc := ast.get_docstring(node)):
            yield path, getattr(node, "lineno", 1), " ".join(doc.split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield path, token.start[0], token.string.lstrip("# ")


def of_tests() -> Iterator[Text]:
    for path in tracked("tests/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield path, node.lineno, node.name.removeprefix("test_").replace("_", " ")


KINDS = {
    "pages": lambda: [*of_templates(), *of_python(), *of_javascript()],
    "comments": lambda: [*of_comments()],
    "tests": lambda: [*of_tests()],
}


def main() -> None:
    for kind in sys.argv[1:] or ["pages"]:
        for path, line, text in KINDS[kind]():
            sys.stdout.write(f"{path.relative_to(ROOT)}:{line}: {text}\n")


if __name__ == "__main__":
    main()
