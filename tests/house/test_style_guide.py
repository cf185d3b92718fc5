"""The style sheets use only the tokens, and the style guide shows all of them, to developers only."""

import re
from typing import Any

from django.test import Client

from taskruns.models import Status
from taskruns.pages.style_guide import sample_rows, token_groups
from tests.factories import person
from tests.paths import ROOT

SHEETS = ROOT / "taskruns" / "static" / "taskruns"
# A QR code is black on white in every theme; shadows are black.
FIXED = re.compile(r"\.qr|shadow|backdrop")


def test_the_style_guide_exists_only_with_debug(client: Client, settings: Any, db: None):
    client.force_login(person("dora@example.com"))
    assert client.get("/styleguide/").status_code == 404
    settings.DEBUG = True
    page = client.get("/styleguide/")
    assert page.status_code == 200
    text = page.content.decode()
    assert all(f"<code>--{token.name}</code>" in text for group in token_groups() for token in group.tokens)


def test_the_guide_shows_every_token():
    shown = {token.name for group in token_groups() for token in group.tokens}
    written = set(re.findall(r"^\s*--([\w-]+):", (SHEETS / "tokens.css").read_text(), re.MULTILINE))
    assert shown == written
    assert len(shown) > 30


def test_every_token_is_used_and_every_used_one_exists():
    known = {token.name for group in token_groups() for token in group.tokens}
    used = {name for sheet in SHEETS.glob("*.css") for name in re.findall(r"var\(--([\w-]+)\)", sheet.read_text())}
    assert used == known


def test_colours_are_only_in_the_tokens():
    literal = re.compile(r"#[0-9a-f]{3,8}\b|\brgba?\(|light-dark\(")
    found = [
        f"{sheet.name}: {line}"
        for sheet in SHEETS.glob("*.css")
        if sheet.name != "tokens.css"
        for line in sheet.read_text().splitlines()
        if literal.search(line) and not FIXED.search(line)
    ]
    assert found == []


def test_every_status_is_shown(db: None):
    assert {row.status.value for row in sample_rows()} == set(Status.values)
